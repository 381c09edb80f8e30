"""events.jsonl and TensorBoard: what happened, one line each, in step order."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lorasmith.core.store import write_text


class Events:
    """Appends to `events.jsonl` in the run folder and, if asked for, to TensorBoard's files in `tensorboard/`."""

    def __init__(self, folder: Path, tensorboard: bool = True) -> None:
        self.path = folder / "events.jsonl"
        self._tensorboard_folder = folder / "tensorboard" if tensorboard else None
        self._writer: Any = None

    def write(self, event: str, step: int, **fields: Any) -> None:
        """One line. Numbers that are not finite are written as null."""
        line = json.dumps({"event": event, "step": step, **{k: _plain(v) for k, v in fields.items()}})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._to_tensorboard(event, step, fields)

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
        if event not in ("step", "validation", "attention") or self._open(step) is None:
            return
        for name, value in fields.items():
            values = value if isinstance(value, dict) else {"": value}
            for part, number in values.items():
                if isinstance(number, int | float) and name not in ("epoch", "seconds", "samples"):
                    self._writer.add_scalar(f"{event}/{name}/{part}".rstrip("/"), number, step)

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
