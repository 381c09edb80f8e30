"""Hooks that write numbered files: how the files are named, and which of them are deleted again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from lorasmith.training.hooks.base import Hook

if TYPE_CHECKING:
    from lorasmith.training.run import Run

FIELDS = ("name", "step", "epoch")
MAX_PATTERN = 200
"""Characters of a pattern; file systems take names of 255 bytes."""
WIDE = re.compile(r"\d{3}|[{}]")
"""Widths of three digits and more, or those that another field gives."""


class NumberedFiles(Hook):
    """Writes a numbered file each time it acts.

    Files of steps form one series. If `epoch_name` is given, files of epochs form a second one. Old files are deleted
    from each series separately; the events of the files name the series (`step` or `epoch`) as `row`.
    """

    folder: Path | None = None
    """Folder of the files. Default: the run's folder."""
    step_name: str = "{name}-{step:06d}"
    """File name, without suffix, of the numbered files. `{name}` is the name of the run, `{step}` and `{epoch}` are the
    number of steps and epochs made."""
    epoch_name: str | None = None
    """File name of files that are written because an epoch has ended. Default: `step_name`."""
    keep: int | None = Field(default=None, ge=1)
    """Keep only so many of the numbered files, the newest. Default: all."""
    keep_epochs: int | None = Field(default=None, ge=1)
    """The same for the files that are named by `epoch_name`."""
    number_last: bool = False
    """If `every_steps` falls on the last step, write a numbered file there too, beside the final file."""

    @field_validator("step_name", "epoch_name")
    @classmethod
    def _pattern(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            check_pattern(pattern, FIELDS, ("step", "epoch"))
        return pattern

    def output_folder(self, run: Run) -> Path:
        """The folder that the files are written to."""
        return self.folder or run.folder

    def file_names(self, run: Run) -> dict[str, str]:
        """Names without suffix of the numbered files of the step just made, each with its series: `step`, `epoch`, or
        one of both."""
        by_epoch = self.epoch_name is not None and self.due_by_epoch(run)
        if run.state.step >= run.length.steps:
            # the final file, which has no number, is written at the last step anyway
            by_step = self.number_last and self.due_by_step(run)
            by_epoch = False
        else:
            by_step = self.due_by_step(run) or not by_epoch

        names = {}
        if by_step:
            names[format_pattern(self.step_name, run)] = "step"
        if by_epoch:
            names[format_pattern(self.epoch_name or "", run)] = "epoch"
        return names

    def write_event(self, run: Run, event: str, path: Path, series: str = "") -> None:
        """Log that a file has been written, then delete the files of its series that are too old."""
        file = run.relative_path(path)
        if series:
            run.events.write(event, run.state.step, file=file, row=series)
            self.prune(run, event, series)
        else:
            run.events.write(event, run.state.step, file=file)

    def prune(self, run: Run, event: str, series: str, files_per_step: int = 1) -> None:
        """Delete the files of a series that are too old. The files are those that the run's events of this kind name.

        `files_per_step`: number of files of the series that are written each time.
        """
        keep = self.keep_epochs if series.startswith("epoch") else self.keep
        if keep is None:
            return
        # a resumed run can write a file a second time: it keeps the place of its first event
        events = [written for written in run.events.of(event) if written.get("row") == series]
        files = list(dict.fromkeys(str(written.get("file")) for written in events))
        for file in files[: -keep * files_per_step]:
            path = run.folder / file
            # the events of a folder from somebody else may name any file
            if not is_inside(path, (self.output_folder(run), run.folder)):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def is_inside(path: Path, folders: Iterable[Path]) -> bool:
    """Whether a file is in one of the folders, wherever links lead."""
    place = path.resolve().parent
    return any(place.is_relative_to(folder.resolve()) for folder in folders)


def check_pattern(pattern: str, allowed: tuple[str, ...], needed: tuple[str, ...]) -> None:
    """Raises ValueError if a pattern of file names has an unknown field, or none of the fields in `needed`, which make
    the names differ."""
    wrong_text = f"must be text with the fields {in_braces(allowed, ', ')}"
    try:
        fields = fields_of(pattern)
    except ValueError as error:
        raise ValueError(f"{wrong_text} ({error})") from None
    in_a_folder = "/" in pattern or "\\" in pattern
    if not fields & set(needed) or not fields <= set(allowed) or in_a_folder:
        raise ValueError(
            f"must be a file name without folder that contains {in_braces(needed, ' or ')}; "
            "without it, files would overwrite each other"
        )

    # try the pattern with values of the right types, so that a format such as `{step:q}` is found now
    examples: dict[str, Any] = {**dict.fromkeys(allowed, 1), "name": "x", "time": "x"}
    try:
        pattern.format(**examples)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{wrong_text} ({error})") from None


def fields_of(pattern: str) -> set[str]:
    """The names of the fields of a pattern. Raises ValueError if it is no pattern, or one of very long texts."""
    parts = list(Formatter().parse(pattern))
    # before the pattern is ever filled in: `{step:0999999999d}` would be a text of a gigabyte
    if len(pattern) > MAX_PATTERN or any(WIDE.search(layout or "") for _, _, layout, _ in parts):
        raise ValueError("it is too long; a width, as the 6 of {step:06d}, has at most two digits")
    return {field for _, field, _, _ in parts if field is not None}


def in_braces(fields: tuple[str, ...], separator: str) -> str:
    """Fields as a pattern contains them: `{step} or {epoch}`."""
    return separator.join(f"{{{field}}}" for field in fields)


def format_pattern(pattern: str, run: Run, **extra_fields: Any) -> str:
    """A pattern of file names filled in with the run's name and position."""
    position = {"step": run.state.step, "epoch": epochs_begun(run)}
    return pattern.format(name=run.name, **position, **extra_fields)


def epochs_begun(run: Run) -> int:
    """The number of epochs made so far; an epoch that is under way counts as one."""
    return -(-run.state.step // run.length.steps_per_epoch)
