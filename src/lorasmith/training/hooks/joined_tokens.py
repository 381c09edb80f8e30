"""All new tokens of a run in one file, as diffusers' advanced scripts write it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.formats import embeddings, token_embeddings
from lorasmith.training.hooks.base import Hook
from lorasmith.training.output import export

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class JoinedTokens(Hook):
    """Writes `name_emb.safetensors` at the end, beside the LoRA: a tensor (vectors, width) for each text encoder,
    `clip_l` and, for SDXL, `clip_g`, with the vectors of all new tokens in their order."""

    kind: Literal["joined_words"] = "joined_words"
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"

    def start(self, run: Run) -> None:
        """Raises LorasmithError before training if the run has no new tokens."""
        if run.token_trainer is None:
            raise LorasmithError(
                "hooks.joined_words: this run trains no new tokens, so there is nothing to write; "
                "add a table to `concepts`, or remove the hook"
            )
        super().start(run)

    def act(self, run: Run) -> None:
        path = run.folder / f"{run.name}_emb.safetensors"
        export.write_token_embedding(run, path, self.tensors(run), self.dtype)
        run.events.write("export", run.state.step, file=run.relative_path(path), row="joined words")

    def tensors(self, run: Run) -> dict[str, Tensor]:
        """The vectors of all tokens by text encoder; of vectors for each layer their mean."""
        assert run.token_trainer is not None
        with run.as_exported():
            values = token_embeddings.mean_over_layers(
                token_embeddings.vocabulary_embeddings(run.token_trainer.vocabulary)
            )
        joined: dict[str, Tensor] = {}
        for component in run.family.text_components:
            parts = [vectors[component].reshape(-1, vectors[component].shape[-1]) for vectors in values.values()]
            joined[embeddings.FILE_NAMES[component]] = torch.cat(parts)
        return joined
