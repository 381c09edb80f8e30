"""Exports while training: LoRA files that people load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.formats import words
from lorasmith.formats.base import Format
from lorasmith.formats.kohya import Kohya
from lorasmith.train import export
from lorasmith.train.hooks.base import Hook
from lorasmith.train.whole_model import check_layout, whole_model

if TYPE_CHECKING:
    from lorasmith.train.run import Run


class Exports(Hook):
    """Writes `name-000100.safetensors` at step 100, and `name.safetensors` at the end."""

    kind: Literal["export"] = "export"
    keep: int | None = Field(default=None, ge=1)
    """Keep the newest few of the numbered files; default: all."""
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Of the numbers in the file. fp16 halves the file; fp32 is exact."""
    format: Format = Field(default_factory=Kohya)
    """How the file is laid out; `kohya` is what user interfaces read."""
    also: tuple[Format, ...] = ()
    """Further forms, written beside at the end: `name.peft.safetensors`."""
    model: Literal["layout", "single_file"] | None = None
    """At the end, also write the base model with the change in it: in the base's own `layout` (the folder `name.model`,
    or the file `name.model.safetensors`), or as `single_file` in the original layout (SD 1.x)."""

    def start(self, run: Run) -> None:
        """Find out before training whether the adapter can be written in these forms."""
        for form in (self.format, *self.also) if len(run.adapters) else ():
            export.encode(run, form)
            export.carried_words(run, form)
        if self.model is not None:
            check_layout(run.config.base, self.model)
        super().start(run)

    def act(self, run: Run) -> None:
        last = run.state.step >= run.length.steps
        name = run.config.file_name + ("" if last else f"-{run.state.step:06d}")
        if run.words is not None:
            self._words(run, name, last)
        if not len(run.adapters):
            return
        path = export.write(run, run.folder / f"{name}.safetensors", self.format, self.dtype)
        run.events.write("export", run.state.step, file=path.name)
        for form in self.also if last else ():
            beside = run.folder / f"{name}.{form.model_dump()['kind']}.safetensors"
            run.events.write("export", run.state.step, file=export.write(run, beside, form, self.dtype).name)
        if last and self.model is not None:
            made = whole_model(run.config.base, path, run.folder / f"{name}.model", self.model)
            run.events.write("export", run.state.step, file=made.name)
        if self.keep is not None and not last:
            numbered = sorted(run.folder.glob(f"{run.config.file_name}-[0-9][0-9][0-9][0-9][0-9][0-9].safetensors"))
            for old in numbered[: -self.keep]:
                old.unlink(missing_ok=True)
                old.with_suffix(".exact.safetensors").unlink(missing_ok=True)

    def _words(self, run: Run, name: str, last: bool) -> None:
        path = export.write_exact(run, run.folder / f"{name}.exact.safetensors")
        run.events.write("export", run.state.step, file=path.name)
        for file in export.write_embeddings(run, run.folder / "embeddings") if last else ():
            run.events.write("export", run.state.step, file=f"embeddings/{file.name}")
        assert run.words is not None
        if last and (warning := words.apart(words.values_of(run.words.vocabulary))):
            run.progress.say(warning)
