"""Requests to a run that is under way: files in the folder `control` of the run.

Anybody who may write there can ask a run for something, for example `touch runs/garp/control/stop`. The run looks there
about once a second between two steps, does what the file is named after, and deletes the file.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from lorasmith.core.errors import LorasmithError
from lorasmith.core.lock import find_holder

FOLDER = "control"
STOP, PREVIEW, EXPORT, CHECKPOINT = REQUESTS = ("stop", "preview", "export", "checkpoint")
"""`stop`: end after the current step with a checkpoint, as Ctrl-C does; the others: do it now."""


def send_request(run: Path, name: str) -> None:
    """Ask the run in a folder for something. Raises LorasmithError if it is not under way or the name is unknown."""
    if name not in REQUESTS:
        raise LorasmithError(f'a run knows no request "{name}"; it knows {", ".join(REQUESTS)}')
    if find_holder(run) is None:
        raise LorasmithError(f"{run}: the run is not under way")
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    (folder / name).touch()


def take_requests(run: Path) -> list[str]:
    """The requests to the run, in the order of `REQUESTS` but `stop` last; their files are then deleted."""
    folder = run / FOLDER
    try:
        names = os.listdir(folder)
    except OSError:
        return []  # there was never a request
    requests = [name for name in (*REQUESTS[1:], STOP) if name in names]
    for name in requests:
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    return requests
