"""How much memory this process has used."""

from __future__ import annotations

import sys

import psutil
import torch

from lorasmith.core.devices import backend


def peak_memory(device: torch.device) -> int:
    """The most bytes in use at one time: of the device's memory where it counts them, else of this process."""
    ask = None if device.type == "cpu" else getattr(backend(device.type), "max_memory_allocated", None)
    if ask is not None:
        return int(ask(device))
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # not available on Windows

    # macOS counts bytes, Linux kibibytes
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
