"""Who is measured: a file for each.

A file has `TITLE`, `check(workload)`, and `build(workload)`, which gives a function that makes one whole step of
training: noise, timesteps, forward and backward pass, clipping, optimizer. Our own step is the reference; the others
train the same LoRA on the same layers with diffusers' UNet and PEFT.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Protocol, cast

from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.training.bench.workload import Workload

Step = Callable[[], object]


class Contender(Protocol):
    """What a file of this folder contains."""

    TITLE: str
    """What is measured, in a few words."""

    def check(self, workload: Workload) -> None:
        """Raises LorasmithError for a workload that it cannot compute. Loads nothing."""
        ...

    def build(self, workload: Workload) -> Step:
        """Load everything and return the step. Raises LorasmithError for what the user can repair."""
        ...


OURS = "ours"
LIBRARIES = "_"
"""Files whose names begin so are what contenders share."""


def peers() -> list[str]:
    """The names of all contenders but ours."""
    files = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith(LIBRARIES)]
    return [name.replace("_", "-") for name in files if name != OURS]


def contender_of(name: str) -> Contender:
    """The contender of a name. Raises LorasmithError if there is none."""
    if name not in (OURS, *peers()):
        hint = did_you_mean(name, peers())
        raise LorasmithError(
            f'--against: there is no "{name}"; {hint}{"; " if hint else ""}known: {", ".join(peers())}'
        )
    return cast(Contender, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))
