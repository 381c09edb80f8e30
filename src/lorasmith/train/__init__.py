"""Training: config, loop, objectives, hooks, checkpoints.

The package can be called: `lorasmith.train("config.toml")` is the public function of that name, whether or not a module
of this package has been imported before.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return import_module("lorasmith.api").train(*args, **kwargs)  # above this layer, so only when it is called


sys.modules[__name__].__class__ = _Callable
