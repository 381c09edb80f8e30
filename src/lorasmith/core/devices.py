"""The devices of this machine. What a device can do is queried through the parts that all of torch's backends
share; no code depends on a maker's name.

torch's ROCm build answers under `cuda`, so AMD's devices take the same path as NVIDIA's.
"""

from __future__ import annotations

import gc
from typing import Any

import psutil
import torch

from lorasmith.core.errors import LorasmithError

BACKENDS = ("cuda", "xpu", "mps")
"""torch's backends that train, in the order in which `auto` prefers them."""
TESTED = ("cuda", "cpu")


def backend(device_type: str) -> Any:
    """torch's module of a device type, such as `torch.cuda`."""
    return getattr(torch, device_type)


def available_backends() -> list[str]:
    """The backends that this torch was built with and that find a device."""
    found: list[str] = []
    for name in BACKENDS:
        try:
            if backend(name).is_available():
                found.append(name)
        except (AttributeError, RuntimeError):  # an older torch, or a driver that fails
            continue
    return found


def all_devices() -> list[str]:
    """All devices of the backend that `auto` prefers: `cuda:0`, `cuda:1` ...; empty if there is none."""
    found = available_backends()
    if not found:
        return []
    return [f"{found[0]}:{i}" for i in range(backend(found[0]).device_count())]


def pick_device(name: str) -> torch.device:
    """The device of a name; `auto` is the first device that torch finds, else the CPU.

    Raises LorasmithError for a wrong name, or a device that torch does not find.
    """
    found = available_backends()
    if name == "auto":
        return torch.device(found[0] if found else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise LorasmithError(f'device: "{name}" is not a device; use auto, cpu, cuda, cuda:1, xpu or mps') from None
    if device.type != "cpu" and device.type not in found:
        there = f"it finds {', '.join(found)}" if found else "it finds no GPU; lorasmith doctor says why"
        raise LorasmithError(f'device: "{name}" needs torch to find a device of {device.type}, but {there}; use auto')
    return device


def untested_note(device: torch.device) -> str:
    """What the user should know about a device on which Lorasmith is not tested; else an empty text."""
    if device.type in TESTED:
        return ""
    return (
        f'training on {device.type}, on which Lorasmith has not been tested; compare with device = "cpu" if pictures '
        "look wrong (lorasmith doctor tests the device)"
    )


def device_name(device: torch.device) -> str:
    """The name that the device gives itself; of others the type, and the number of threads of a CPU."""
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    ask = getattr(backend(device.type), "get_device_name", None)
    return device.type if ask is None else str(ask(device))


def memory_of(device: torch.device) -> tuple[int, int] | None:
    """Free and total bytes of a device's memory; None where it does not say."""
    if device.type == "cpu":
        memory = psutil.virtual_memory()
        return int(memory.available), int(memory.total)
    module = backend(device.type)
    if hasattr(module, "mem_get_info"):
        free, total = module.mem_get_info(device)
        return int(free), int(total)
    if hasattr(module, "recommended_max_memory"):
        total = int(module.recommended_max_memory())
        return max(0, total - int(module.driver_allocated_memory())), total
    return None


def free_unused() -> None:
    """Give back the memory of objects that only hold each other, and what allocators of devices keep for reuse."""
    gc.collect()
    for name in available_backends():
        if hasattr(backend(name), "empty_cache"):
            backend(name).empty_cache()


def reset_peak_memory(device: torch.device) -> None:
    """Count the peak of the device's memory from now on, where it counts it."""
    if device.type != "cpu" and hasattr(backend(device.type), "reset_peak_memory_stats"):
        backend(device.type).reset_peak_memory_stats(device)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type != "cpu":
        backend(device.type).synchronize()


def can_compute(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the device multiplies and convolves numbers of a dtype, by trying."""
    try:
        image = torch.ones(1, 4, 8, 8, device=device, dtype=dtype)
        weight = torch.ones(4, 4, 3, 3, device=device, dtype=dtype)
        matrix = torch.nn.functional.conv2d(image, weight, padding=1).flatten(1)
        return bool(torch.isfinite(matrix @ matrix.T).all())
    except (RuntimeError, TypeError, NotImplementedError):
        return False
