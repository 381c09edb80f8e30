"""Torch for the modules that a config is read with: it is imported when one of its names is first used.

Importing torch takes longer than reading a config, so a mistake in a config would be answered late. A module that
defines settings, and uses torch only inside functions, imports it from here, and its types under `TYPE_CHECKING`:

    from lorasmith.core.deferred_torch import F, torch

A plain `import torch` is not wrong there. It only makes the answer slower.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any


class DeferredModule(ModuleType):
    """Stands for a module that is imported when one of its names is first used."""

    def __getattr__(self, name: str) -> Any:
        # Python itself asks for names such as `__path__`, which must not import the module
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(import_module(self.__name__), name)


if TYPE_CHECKING:
    import torch as torch
    import torch.nn.functional as F
else:
    torch = DeferredModule("torch")
    F = DeferredModule("torch.nn.functional")

__all__ = ["F", "torch"]
