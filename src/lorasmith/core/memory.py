"""How much memory this process has used."""

from __future__ import annotations

import sys

import psutil
import torch


def peak_memory(device: torch.device) -> int:
    """The most bytes in use at one time: of the GPU's memory for a CUDA device, else of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # not available on Windows

    # macOS counts bytes, Linux kibibytes
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
