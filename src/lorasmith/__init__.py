"""Lorasmith: train, sample, fuse and ship LoRAs for Stable Diffusion.

    lorasmith.train("config.toml")      lorasmith.check("config.toml")
    lorasmith.sample(...)               lorasmith.inspect("lora.safetensors")

Names are imported when they are first used, so that `import lorasmith` is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lorasmith import moved_modules
from lorasmith.core.package import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from lorasmith.api import (
        check,
        combine,
        convert,
        doctor,
        evaluate,
        extract,
        fuse,
        inspect,
        masks,
        merge,
        refit,
        reproduce,
        resize,
        sample,
        strip,
        sweep,
        train,
    )
    from lorasmith.core.errors import ConfigError, LorasmithError
    from lorasmith.core.progress import Lines, Progress

__all__ = [
    "ConfigError",
    "Lines",
    "LorasmithError",
    "Progress",
    "check",
    "combine",
    "convert",
    "doctor",
    "evaluate",
    "extract",
    "fuse",
    "inspect",
    "masks",
    "merge",
    "refit",
    "reproduce",
    "resize",
    "sample",
    "strip",
    "sweep",
    "train",
]

_MODULES = {
    "ConfigError": "lorasmith.core.errors",
    "LorasmithError": "lorasmith.core.errors",
    "Lines": "lorasmith.core.progress",
    "Progress": "lorasmith.core.progress",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_MODULES.get(name, "lorasmith.api")), name)
    globals()[name] = value
    return value


moved_modules.install()


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
