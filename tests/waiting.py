"""Waiting for what another process or thread does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")


def wait_until(
    happened: Callable[[], Found],
    seconds: float = 120,
    child: subprocess.Popen[str] | subprocess.Popen[bytes] | None = None,
    log: Path | None = None,
) -> Found:
    """What `happened` returns as soon as that is true.

    Raises AssertionError after `seconds`, which are only reached if something hangs, also on a machine that has much
    else to do; and if `child`, which is to bring it about, ends before. `log`: a file that the message quotes.
    """
    end = time.monotonic() + seconds
    while not (found := happened()):
        said = log.read_text(encoding="utf-8", errors="replace") if log is not None else ""
        assert child is None or child.poll() is None, f"the process ended before it happened. {said}"
        assert time.monotonic() < end, f"it did not happen within {seconds} s. {said}"
        time.sleep(0.01)
    return found
