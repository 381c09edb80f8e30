"""Exports while training: LoRA files that people load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.core.errors import LorasmithError
from lorasmith.files.lora import Use
from lorasmith.formats import token_embeddings
from lorasmith.formats.base import Format
from lorasmith.formats.kohya import Kohya
from lorasmith.training.hooks.numbered_files import NumberedFiles
from lorasmith.training.output import export
from lorasmith.training.output.full_model import check_layout, keeps_vae, whole_model

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class Exports(NumberedFiles):
    """Writes `name-000100.safetensors` at step 100, and `name.safetensors` at the end."""

    kind: Literal["export"] = "export"
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Of the numbers in the file. fp16 halves the file; fp32 is exact."""
    metadata: Literal["full", "minimal"] = "full"
    """What files say about themselves. `minimal`: kind, rank and alpha, what base they are for and the model spec's
    fields; neither captions nor settings."""
    format: Format = Field(default_factory=Kohya)
    """How the file is laid out; `kohya` is what user interfaces read."""
    container: Literal["safetensors", "pt", "ckpt"] = "safetensors"
    """The file's suffix. `pt` and `ckpt` hold the tensors alone, by `torch.save`, without a word about the run; at the
    end the run's folder gets a `.safetensors` too."""
    also: tuple[Format, ...] = ()
    """Further forms, written beside at the end: `name.peft.safetensors`."""
    model: Literal["layout", "single_file"] | None = None
    """At the end, also write the base model with the change in it: in the base's own `layout` (the folder `name.model`,
    or the file `name.model.safetensors`), or as `single_file` in the original layout (SD 1.x)."""

    def file(self, run: Run) -> Path:
        """The file of the end."""
        name = run.config.file_name
        return self.place(run) / f"{name}.{self.container}" if len(run.adapters) else exact(run, name)

    def claim(self, name: str, overwrite: bool) -> None:
        """Raises LorasmithError if another run's file stands where this one's would, in a folder that is not the
        run's."""
        found = None if self.folder is None else self.folder / f"{name}.{self.container}"
        if found is not None and found.exists() and not overwrite:
            raise LorasmithError(
                f"export.folder: {found} is there already; choose another name or folder, or give --overwrite"
            )

    def start(self, run: Run) -> None:
        """Find out before training whether the adapter can be written in these forms."""
        for form in (self.format, *self.also) if len(run.adapters) else ():
            export.encode(run, form)
            export.carried_words(run, form)
        if self.model is not None:
            check_layout(run.config.base, self.model, run.config.vae)
            if run.config.vae and keeps_vae(run.config.base):
                run.progress.say("export.model: the base is one file, so the model that is written keeps its own VAE")
        super().start(run)

    def act(self, run: Run) -> None:
        for name, row in self.names(run).items():
            self._write(run, name, row)
        if run.state.step >= run.length.steps:
            self._last(run, run.config.file_name)

    def _write(self, run: Run, name: str, row: str) -> None:
        """The files of one name; those of a row that are too old go."""
        if run.words is not None:
            self._tell(run, export.write_exact(run, exact(run, name)), row and f"{row} exact")
        if len(run.adapters):
            path = self.place(run) / f"{name}.{self.container}"
            self._tell(run, export.write(run, path, self.format, self.dtype), row)

    def _last(self, run: Run, name: str) -> None:
        """What is made of a finished run."""
        self._write(run, name, "")
        if run.words is not None:
            for file in export.write_embeddings(run, run.folder / "embeddings"):
                self._tell(run, file)
            if warning := token_embeddings.apart(token_embeddings.values_of(run.words.vocabulary)):
                run.progress.say(warning)
        if not len(run.adapters):
            return
        path = self.file(run)
        if self.container != "safetensors":
            path = export.write(run, run.folder / f"{name}.safetensors", self.format, self.dtype)
            self._tell(run, path)
        for form in self.also:
            beside = run.folder / f"{name}.{form.model_dump()['kind']}.safetensors"
            self._tell(run, export.write(run, beside, form, self.dtype))
        if self.model is not None:
            changes = [*map(Use.read, run.config.merge), Use(path)]
            made = whole_model(run.config.base, changes, run.folder / f"{name}.model", self.model, run.config.vae)
            self._tell(run, made)

    def _tell(self, run: Run, path: Path, row: str = "") -> None:
        more = {"row": row} if row else {}
        run.events.write("export", run.state.step, file=run.shown(path), **more)
        if row:
            self.prune(run, "export", row)


def exact(run: Run, name: str) -> Path:
    """The file with new words in our own form, which lies in the run's folder always."""
    return run.folder / f"{name}.exact.safetensors"
