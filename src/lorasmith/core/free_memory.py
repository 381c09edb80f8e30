"""How much memory is free on a device."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux says what a container may use."""


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still get: on a GPU, those that no program uses; else of the system's memory, within
    the limits of a container and of `ulimit -v`."""
    if device.type == "cuda":
        return _free_on_gpu(device)
    free = int(psutil.virtual_memory().available)
    limit, used = _number(CGROUP / "memory.max"), _number(CGROUP / "memory.current")
    if limit is not None and used is not None:
        free = min(free, limit - used)
    if sys.platform == "linux":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            free = min(free, limit - psutil.Process().memory_info().vms)
    return max(0, free)


def _free_on_gpu(device: torch.device) -> int:
    """Bytes of a GPU that nobody uses, within the part of it that this process may have
    (`torch.cuda.set_per_process_memory_fraction`). What torch holds for reuse is free too."""
    # not every function of torch takes a device without a number, which means the current one
    number = cast("int | None", device.index)
    index = torch.cuda.current_device() if number is None else number
    free, total = torch.cuda.mem_get_info(index)
    reserved, used = torch.cuda.memory_reserved(index), torch.cuda.memory_allocated(index)
    # torch < 2.8 does not tell the part
    ask = getattr(torch.cuda, "get_per_process_memory_fraction", None)
    allowed = total if ask is None else int(total * ask(index))
    return max(0, min(int(free), allowed - reserved) + reserved - used)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
