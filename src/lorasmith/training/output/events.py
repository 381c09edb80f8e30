"""events.jsonl and TensorBoard: what happened, one line each, in step order."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lorasmith.core.store import write_text

CURVES = ("step", "validation", "attention")
"""Events whose numbers are curves over the steps."""
Listener = Callable[[str, int, dict[str, Any]], object]


class Events:
    """Appends to `events.jsonl` in the run folder and, if asked for, to TensorBoard's files in `tensorboard/`."""

    def __init__(self, folder: Path, tensorboard: bool = True) -> None:
        self.path = folder / "events.jsonl"
        self._tensorboard_folder = folder / "tensorboard" if tensorboard else None
        self._writer: Any = None
        self._listeners: list[Listener] = []

    def listen(self, told: Listener) -> None:
        """Have `told` called with each event after it has been written: its kind, step and fields."""
        self._listeners.append(told)

    def write(self, event: str, step: int, **fields: Any) -> None:
        """One line. Numbers that are not finite are written as null."""
        line = json.dumps({"event": event, "step": step, **{k: _plain(v) for k, v in fields.items()}})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._to_tensorboard(event, step, fields)
        for told in self._listeners:
            told(event, step, fields)

    def of(self, event: str) -> list[dict[str, Any]]:
        """The events of one kind that were written so far, in order, those of earlier parts of the run too."""
        if not self.path.is_file():
            return []
        word = json.dumps({"event": event})[1:-1]
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if word in line and line.endswith("}")]

    @property
    def id(self) -> str:
        """Of the run whose events these are; it stands in their first line."""
        try:
            with self.path.open(encoding="utf-8") as file:
                return str(json.loads(file.readline()).get("id", ""))
        except (OSError, ValueError):
            return ""

    def picture(self, name: str, step: int, path: Path) -> None:
        """Show an image file in TensorBoard."""
        if self._open(step) is None:
            return
        with Image.open(path) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def rewind(self, step: int) -> None:
        """Drop lines after `step`, which a resumed run makes again."""
        if self.path.is_file():
            lines = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
            write_text(self.path, "".join(line + "\n" for line in lines))

    def _to_tensorboard(self, event: str, step: int, fields: dict[str, Any]) -> None:
        found = {} if self._tensorboard_folder is None else scalars(event, fields)
        for name, number in found.items():
            self._open(step).add_scalar(name, number, step)

    def _open(self, step: int) -> Any:
        """TensorBoard's writer, if it is wanted."""
        if self._writer is None and self._tensorboard_folder is not None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._writer = SummaryWriter(str(self._tensorboard_folder), purge_step=step)
        return self._writer

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Silence(Events):
    """Of a rank that is not the first: writes nothing."""

    def write(self, event: str, step: int, **fields: Any) -> None: ...

    def rewind(self, step: int) -> None: ...


def scalars(event: str, fields: dict[str, Any]) -> dict[str, float]:
    """The numbers of an event of CURVES: `step/loss`, `step/lr/unet` ..."""
    found = {}
    for name, value in fields.items() if event in CURVES else ():
        values = value if isinstance(value, dict) else {"": value}
        for part, number in values.items():
            if isinstance(number, int | float) and name not in ("epoch", "seconds", "samples"):
                found[f"{event}/{name}/{part}".rstrip("/")] = number
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return str(value) if isinstance(value, Path) else value


def _step_of(line: str) -> int:
    """The step of a line; a torn last line (killed while writing) counts as after everything."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 1 << 62
