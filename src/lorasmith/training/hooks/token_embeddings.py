"""Files with the embeddings of new tokens alone, as user interfaces read them, while training and at the end."""

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


class TokenEmbeddings(NumberedFiles):
    """Writes `name-000100.safetensors` after step 100, and `name.safetensors` at the end: the embedding of the new
    token. If there are several new tokens, each has a file of its own, `name.token.safetensors`."""

    kind: Literal["words"] = "words"
    container: Literal["safetensors", "pt", "ckpt"] = "pt"
    """Suffix of the file. `pt` and `ckpt` hold the tensors alone, written by `torch.save`."""
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    layers: bool = False
    """Write one tensor for each cross-attention layer, named as in sd-scripts' XTI (SD 1.x and 2.x). Otherwise write
    the mean over the layers."""

    def start(self, run: Run) -> None:
        """Raises LorasmithError before training if the run has no new tokens or they cannot be written in this form."""
        if run.token_trainer is None:
            raise LorasmithError(
                "hooks.words: this run trains no new tokens, so there is nothing to write; "
                "add a table to `concepts`, or remove the hook"
            )
        # the tensors are not needed yet, but errors must be raised now
        self.tensors_by_file(run, "")
        super().start(run)

    def act(self, run: Run) -> None:
        for name, series in self.file_names(run).items():
            # a series of its own, apart from that of the exports of the same run
            self._write(run, name, f"{series} words")
        if run.state.step >= run.length.steps:
            self._write(run, run.name)

    def _write(self, run: Run, name: str, series: str = "") -> None:
        files = self.tensors_by_file(run, name)
        for stem, tensors in files.items():
            path = self.output_folder(run) / f"{stem}.{self.container}"
            export.write_token_embedding(run, path, tensors, self.dtype)
            file = run.relative_path(path)
            run.events.write("export", run.state.step, file=file, row=series)
        # the files of one step are deleted together, so this waits until all of them are written
        if series:
            self.prune(run, "export", series, files_per_step=len(files))

    def tensors_by_file(self, run: Run, name: str) -> dict[str, Mapping[str, Tensor]]:
        """The tensors of each file, by file name without suffix. `name`: the part that all file names have."""
        assert run.token_trainer is not None
        with run.as_exported():
            values = token_embeddings.vocabulary_embeddings(run.token_trainer.vocabulary)

        encoded: dict[str, Mapping[str, Tensor]] = {}
        if self.layers:
            # XTI is a format of SD 1.x and 2.x, which have one text encoder
            for token, vectors in values.items():
                encoded[token] = xti.encode(vectors[run.family.text_components[0]])
        else:
            for token, vectors in token_embeddings.mean_over_layers(values).items():
                encoded[token] = embeddings.encode(vectors)

        files = {}
        for token, tensors in encoded.items():
            stem = name if len(encoded) == 1 else f"{name}.{token_embeddings.file_name(token)}"
            files[stem] = tensors
        return files
