"""What the process of the playground does: it keeps a base model loaded, and draws pictures with it.

Only that process imports this file; the server of the studio imports no torch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorasmith.core.config import validate
from lorasmith.core.devices import pick_device
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.families.resolve import find
from lorasmith.sampling.loras import LoraUse
from lorasmith.sampling.run import draw_pictures, plan_pictures
from lorasmith.sampling.settings import SampleSettings, build_requests

Send = Callable[[dict[str, Any]], None]
SECONDS_BETWEEN_REPORTS = 0.1


class Reports(Progress):
    """Sends how far a request has come, and stops it when it is cancelled."""

    def __init__(self, send: Send, cancelled: threading.Event) -> None:
        self.send, self.cancelled = send, cancelled
        self.files: list[str] = []
        self.notes: list[str] = []
        """What was said on the way, such as tokens that a LoRA was trained with and does not hold."""
        self._sent = 0.0
        self._last = ("", 0, 0)

    @contextmanager
    def track(self, description: str, total: int) -> Generator[Callable[[int, str], None], None, None]:
        done = 0

        def advance(units: int, note: str) -> None:
            nonlocal done
            self.stop_if_cancelled()
            done += units
            if time.monotonic() - self._sent >= SECONDS_BETWEEN_REPORTS:
                self.tell(description, done, total)

        yield advance

    def say(self, text: str) -> None:
        self.notes.append(text)
        self.tell(text, 0, 0)

    def add_file(self, file: Path) -> None:
        """A picture is written."""
        self.files.append(str(file))
        self.tell(*self._last)

    def tell(self, note: str, done: int, total: int) -> None:
        """Send one message."""
        self._sent = time.monotonic()
        self._last = (note, done, total)
        self.send({"progress": {"note": note, "done": done, "total": total, "files": list(self.files)}})

    def stop_if_cancelled(self) -> None:
        """Raises LorasmithError if the request is to be stopped."""
        if self.cancelled.is_set():
            raise LorasmithError("stopped; the pictures that were finished are kept")


class Drawer:
    """A base model that stays loaded until another one is requested."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._family: Family | None = None

    def draw(
        self,
        send: Send,
        cancelled: threading.Event,
        *,
        base: str,
        prompt: str,
        folder: str,
        loras: Sequence[tuple[str, float]],
        settings: dict[str, Any],
    ) -> dict[str, Any]:
        """Draw a prompt with LoRA files at strengths, and write the pictures into a folder.

        `settings`: those of `SampleSettings`. Returns `files`, `seconds` and `notes`. Raises ConfigError and
        LorasmithError for mistakes of the user, and LorasmithError if it was cancelled.
        """
        began = time.monotonic()
        reports = Reports(send, cancelled)
        checked = validate(SampleSettings, settings, "the form")
        requests = build_requests([prompt], checked, find(base))
        planned = plan_pictures(requests, [LoraUse(Path(file), strength) for file, strength in loras], checked)
        family = self._loaded(base, checked, reports)
        reports.stop_if_cancelled()
        _, files = draw_pictures(family, planned, Path(folder), checked, reports, reports.add_file)
        return {
            "files": [str(file) for file in files],
            "seconds": round(time.monotonic() - began, 2),
            "notes": [note for note in reports.notes if not note.startswith("loading ")],
        }

    def _loaded(self, base: str, settings: SampleSettings, progress: Progress) -> Family:
        key = (base, settings.vae, settings.base_parts, settings.precision, settings.device)
        if self._family is None or key != self._key:
            # two models at a time may not fit into the memory
            self._family = None
            progress.say(f"loading {base}")
            device = pick_device(settings.device)
            self._family = load(base, dtype=settings.dtype, device=device, vae=settings.vae, parts=settings.base_parts)
            self._key = key
        return self._family


DRAWER = Drawer()
