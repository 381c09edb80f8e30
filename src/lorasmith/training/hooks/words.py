"""Files of new words alone, as user interfaces read them, while training and at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.formats import embeddings, token_embeddings, xti
from lorasmith.training.hooks.numbered_files import NumberedFiles
from lorasmith.training.output import export

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class Words(NumberedFiles):
    """Writes `name-000100.safetensors` at step 100, and `name.safetensors` at the end: the vectors of the new word. Of
    several words each has a file, `name.word.safetensors`."""

    kind: Literal["words"] = "words"
    container: Literal["safetensors", "pt", "ckpt"] = "pt"
    """The file's suffix. `pt` and `ckpt` are the tensors alone, by `torch.save`."""
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    layers: bool = False
    """A tensor for each cross-attention layer, named as sd-scripts' XTI does (SD 1.x, 2.x); else the mean over them."""

    def start(self, run: Run) -> None:
        """Find out before training whether there are words, and whether they can be written so."""
        if run.words is None:
            raise LorasmithError("hooks: words are to be written, and the run learns none; add a table to `concepts`")
        self.files(run, "")
        super().start(run)

    def act(self, run: Run) -> None:
        for name, row in self.names(run).items():
            self._write(run, name, f"{row} words")
        if run.state.step >= run.length.steps:
            self._write(run, run.config.file_name)

    def _write(self, run: Run, name: str, row: str = "") -> None:
        for stem, tensors in self.files(run, name).items():
            path = self.place(run) / f"{stem}.{self.container}"
            run.events.write(
                "export", run.state.step, file=run.shown(export.write_word(run, path, tensors, self.dtype)), row=row
            )
        if row:
            self.prune(run, "export", row, len(self.files(run, name)))

    def files(self, run: Run, name: str) -> dict[str, Mapping[str, Tensor]]:
        """Name without suffix to tensors."""
        assert run.words is not None
        with run.showing():
            found = token_embeddings.values_of(run.words.vocabulary)
        if self.layers:
            encoded = {word: xti.encode(vectors["te"]) for word, vectors in found.items()}
        else:
            encoded = {word: embeddings.encode(vectors) for word, vectors in token_embeddings.plain(found).items()}
        return {
            name if len(found) == 1 else f"{name}.{token_embeddings.file_name(w)}": tensors
            for w, tensors in encoded.items()
        }
