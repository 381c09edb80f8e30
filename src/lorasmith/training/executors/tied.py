"""Runs a command that ends with the process that started it: `python tied.py PARENT COMMAND`.

A node of a cluster that is cut off or shut down kills the engine's process, not what that has started. Linux then
sends SIGTERM here, which a run takes as a wish to save a checkpoint and end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Constant of Linux' prctl(2)."""


def tie(parent: int) -> None:
    """Let the system send SIGTERM to this process when `parent` ends. Other systems than Linux cannot do that."""
    if sys.platform != "linux":
        return
    # Ray blocks Ctrl-C in what it starts, and a background job of a shell ignores it; a run must see it, to be stopped
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    # it has ended before that
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)
    # SLURM sends these to all processes of a job; they are for the process that started this one
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT):
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    tie(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
