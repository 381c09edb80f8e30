"""The log of a run: events.jsonl and TensorBoard's files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lorasmith.core.store import write_text

CURVES = ("step", "validation", "attention")
"""Events whose numbers are curves over the steps."""
NOT_CURVES = ("epoch", "seconds", "samples")
"""Fields of such events that only count up."""
AFTER_EVERY_STEP = 1 << 62

Listener = Callable[[str, int, dict[str, Any]], object]
"""A function that is called with the kind, the step and the fields of an event."""


class Events:
    """Appends events to `events.jsonl` in the run folder, one per line in step order and, if `tensorboard` is true,
    their numbers to TensorBoard's files in `tensorboard/`."""

    def __init__(self, folder: Path, tensorboard: bool = True) -> None:
        self.path = folder / "events.jsonl"
        self._tensorboard_folder = folder / "tensorboard" if tensorboard else None
        self._writer: Any = None
        self._listeners: list[Listener] = []
        self._unwritten: list[str] = []
        """Lines that could not be written yet, because the disk is full."""
        self._held: list[tuple[str, int, dict[str, Any]]] = []
        """Events that `hold` was given: kind, step, fields."""

    def listen(self, listener: Listener) -> None:
        """Call `listener` with each further event, after the event has been written."""
        self._listeners.append(listener)

    def write(self, event: str, step: int, **fields: Any) -> None:
        """Write one event, after those that are held. Numbers that are not finite are written as null."""
        self.write_held()
        values = {name: _for_json(value) for name, value in fields.items()}
        line = json.dumps({"event": event, "step": step, **values})
        self._append(line + "\n")
        if self._tensorboard_folder is not None:
            try:
                for name, number in scalars(event, fields).items():
                    self._tensorboard_writer(step).add_scalar(name, number, step)
            except OSError:
                # only curves for a viewer; events.jsonl has the same numbers
                self._tensorboard_folder = None
        for listener in self._listeners:
            listener(event, step, fields)

    def hold(self, event: str, step: int, **fields: Any) -> None:
        """Write an event later: with `write_held`, before the next event, or at the end."""
        self._held.append((event, step, fields))

    def write_held(self) -> None:
        """Write the events that are held."""
        held, self._held = self._held, []
        for event, step, fields in held:
            self.write(event, step, **fields)

    def _append(self, line: str) -> None:
        """Append a line to the file. Lines that cannot be written wait in memory for the next one."""
        self._unwritten.append(line)
        try:
            if not self.path.parent.is_dir():
                # somebody removed the folder of the run; TensorBoard's thread would look for its file in vain
                self._tensorboard_folder = self._writer = None
                self.path.parent.mkdir(parents=True)
            # opened anew for each line, so that a kill loses no line that was written
            with self.path.open("ab") as file:
                end = file.seek(0, os.SEEK_END)
                try:
                    file.write("".join(self._unwritten).encode())
                    file.flush()
                except OSError:
                    # a full disk may have taken a part of the line
                    os.truncate(self.path, end)
                    raise
        except OSError:
            return
        self._unwritten.clear()

    def of(self, event: str) -> list[dict[str, Any]]:
        """All events of one kind so far, in order, including those from before the run was resumed."""
        self.write_held()
        if not self.path.is_file():
            return []
        # only lines with this text are parsed, since most lines are steps; a line without "}" was cut off by a kill
        text = json.dumps({"event": event})[1:-1]
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        events = [_parse(line) for line in lines if text in line and line.endswith("}")]
        return [found for found in events if found is not None and found["event"] == event]

    @property
    def id(self) -> str:
        """The id of the run, from the first event; empty if there is none."""
        try:
            with self.path.open(encoding="utf-8") as file:
                return str(json.loads(file.readline()).get("id", ""))
        except (OSError, ValueError, AttributeError, RecursionError):
            return ""

    def picture(self, name: str, step: int, path: Path) -> None:
        """Show an image file in TensorBoard."""
        if self._tensorboard_folder is None:
            return
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._tensorboard_writer(step).add_image(name, pixels, step, dataformats="HWC")

    def rewind(self, step: int) -> None:
        """Delete events after `step`. A run that is resumed from there writes them again."""
        if not self.path.is_file():
            return
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        remaining = [line for line in lines if _step_of(line) <= step]
        write_text(self.path, "".join(line + "\n" for line in remaining))

    def close(self) -> None:
        self.write_held()
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()

    def _tensorboard_writer(self, step: int) -> Any:
        """TensorBoard's writer. It is opened at the first use and then drops what an earlier session wrote from `step`
        on."""
        if self._writer is None:
            # imported here, since the import takes seconds and not every run needs it
            from torch.utils.tensorboard.writer import SummaryWriter

            self._writer = SummaryWriter(str(self._tensorboard_folder), purge_step=step)
        return self._writer


class NoEvents(Events):
    """For ranks other than the first: writes nothing."""

    def write(self, event: str, step: int, **fields: Any) -> None: ...

    def hold(self, event: str, step: int, **fields: Any) -> None: ...

    def rewind(self, step: int) -> None: ...


def scalars(event: str, fields: dict[str, Any]) -> dict[str, float]:
    """The curves that an event has a point of, by name: `step/loss`, `step/lr/unet` ..."""
    if event not in CURVES:
        return {}
    values_by_name = {}
    for field, value in fields.items():
        if field in NOT_CURVES:
            continue
        # a table, such as the learning rates by parameter group, has a curve for each of its keys
        values = value if isinstance(value, dict) else {"": value}
        for key, number in values.items():
            if isinstance(number, int | float):
                values_by_name[f"{event}/{field}/{key}".rstrip("/")] = number
    return values_by_name


def _for_json(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _for_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def _step_of(line: str) -> int:
    """The step of a line. A last line that was cut off when the process was killed counts as after every step."""
    event = _parse(line)
    return AFTER_EVERY_STEP if event is None else event["step"]


def _parse(line: str) -> dict[str, Any] | None:
    """The event of a line, with its `event` and `step`; None for a line that `write` has not written whole."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str) or type(event.get("step")) is not int:
        return None
    return event
