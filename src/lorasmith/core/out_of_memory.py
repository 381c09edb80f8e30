"""Whether an error says that there was not enough memory. Needs no torch, whose import may be what failed."""

from __future__ import annotations

import errno
import re
import sys
from contextlib import suppress
from pathlib import Path

EXHAUSTED = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|bad[ _]alloc|STATUS_ALLOC_FAILED"
    r"|failed to map segment|unable to mmap|can't start new thread|could not create a (primitive|memory)",
    re.IGNORECASE,
)
"""What errors of torch, its libraries and the loader of the system say when there is no memory."""
ALMOST_ALL = 0.95
"""The share of the address space from which on it counts as used up: what was allocated last did not fit into it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it was raised in place of, says that there is not enough memory."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        # torch's own OutOfMemoryError is a RuntimeError
        by_text = isinstance(current, RuntimeError | ImportError) and EXHAUSTED.search(str(current))
        by_number = isinstance(current, OSError) and current.errno == errno.ENOMEM
        if by_text or by_number or isinstance(current, MemoryError):
            return True
        current = current.__cause__ or current.__context__
    return False


def is_address_space_used_up() -> bool:
    """Whether this process has used all the address space that it may have (`ulimit -v`).

    Libraries then fail in ways that do not mention memory.
    """
    if sys.platform != "linux":
        return False
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return False
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmPeak"))
        return peak >= ALMOST_ALL * limit
    return False
