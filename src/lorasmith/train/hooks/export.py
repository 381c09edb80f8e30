"""Exports while training: LoRA files that people load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lorasmith.train import export
from lorasmith.train.hooks.base import Hook

if TYPE_CHECKING:
    from lorasmith.train.run import Run


class Exports(Hook):
    """Writes `name-000100.safetensors` at step 100, and `name.safetensors` at the end."""

    kind: Literal["export"] = "export"
    keep: int | None = Field(default=None, ge=1)
    """Keep the newest few of the numbered files; default: all."""
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Of the numbers in the file. fp16 halves the file; fp32 is exact."""

    def act(self, run: Run) -> None:
        last = run.state.step >= run.length.steps
        name = run.config.file_name + ("" if last else f"-{run.state.step:06d}")
        path = export.write(run, run.folder / f"{name}.safetensors", self.dtype)
        run.events.write("export", run.state.step, file=path.name)
        if self.keep is not None and not last:
            numbered = sorted(run.folder.glob(f"{run.config.file_name}-[0-9][0-9][0-9][0-9][0-9][0-9].safetensors"))
            for old in numbered[: -self.keep]:
                old.unlink(missing_ok=True)
