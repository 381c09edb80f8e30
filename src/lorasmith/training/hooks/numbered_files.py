"""Hooks whose files have numbers in their names: how they are called, and which of them stay."""

from __future__ import annotations

import shutil
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from lorasmith.training.hooks.base import Hook

if TYPE_CHECKING:
    from lorasmith.training.run import Run

FIELDS = ("name", "step", "epoch")


class NumberedFiles(Hook):
    """Files of steps, and, if they have a name of their own, files of epochs: two rows that are pruned apart."""

    folder: Path | None = None
    """Where the files go; default: the run's folder."""
    step_name: str = "{name}-{step:06d}"
    """Of the numbered files, without suffix: `{name}` is the run's, `{step}` and `{epoch}` count what has been made."""
    epoch_name: str | None = None
    """Of files that are due because an epoch has ended; default: `step_name`."""
    keep: int | None = Field(default=None, ge=1)
    """Keep the newest few of the numbered files; default: all."""
    keep_epochs: int | None = Field(default=None, ge=1)
    """The same for those that `epoch_name` names."""
    number_last: bool = False
    """At the last step, too, write a numbered file where `every_steps` asks for one, beside the file of the end."""

    @field_validator("step_name", "epoch_name")
    @classmethod
    def _pattern(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            check_pattern(pattern, FIELDS, ("step", "epoch"))
        return pattern

    def place(self, run: Run) -> Path:
        """The folder of the files."""
        return self.folder or run.folder

    def names(self, run: Run) -> dict[str, str]:
        """Names without suffix that the step just made has, each with its row: `step`, `epoch`, or both."""
        by_epoch = self.epoch_name is not None and self.due_by_epoch(run)
        if run.state.step >= run.length.steps:
            by_step, by_epoch = self.number_last and self.due_by_step(run), False
        else:
            by_step = self.due_by_step(run) or not by_epoch
        found = {}
        if by_step:
            found[filled(self.step_name, run)] = "step"
        if by_epoch:
            found[filled(self.epoch_name or "", run)] = "epoch"
        return found

    def prune(self, run: Run, event: str, row: str, each: int = 1) -> None:
        """Of the files that the run has told of in events of this kind, remove those of a row that are too old.

        `each`: how many files of the row are written at a time."""
        keep = self.keep_epochs if row.startswith("epoch") else self.keep
        if keep is None:
            return
        made = dict.fromkeys(e["file"] for e in run.events.of(event) if e.get("row") == row)
        for name in list(made)[: -keep * each]:
            path = run.folder / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def check_pattern(pattern: str, allowed: tuple[str, ...], needed: tuple[str, ...]) -> None:
    """Raises ValueError unless a pattern of a file name has known fields only, and one of those that number files."""
    try:
        fields = {field for _, field, _, _ in Formatter().parse(pattern) if field is not None}
        pattern.format(**dict.fromkeys(allowed, 1) | {"name": "x", "time": "x"})
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"a pattern of {', '.join(f'{{{f}}}' for f in allowed)} and text ({error})") from None
    if not fields & set(needed) or not fields <= set(allowed) or {"/", "\\"} & set(pattern):
        fields_needed = " or ".join(f"{{{field}}}" for field in needed)
        raise ValueError(f"a file name, without folder, with {fields_needed}; else files would overwrite each other")


def filled(pattern: str, run: Run, **more: Any) -> str:
    """A pattern with the run's name and position. `epoch`: epochs made, one that has begun counts."""
    step = run.state.step
    epoch = -(-step // run.length.steps_per_epoch)
    return pattern.format(name=run.config.file_name, step=step, epoch=epoch, **more)
