"""What `check` says of memory: what a step would need at each memory level, and whether that is free."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from lorasmith.core.config import Problem
from lorasmith.core.dtypes import dtype_of
from lorasmith.core.free_memory import free_memory
from lorasmith.data.dataset import Dataset
from lorasmith.families.source import Source
from lorasmith.training.config import TrainConfig
from lorasmith.training.memory_levels import LEVELS
from lorasmith.training.setup.memory_estimate import largest_shape, last_level, least_level, need

GIB = 2**30


@dataclass(frozen=True)
class MemoryForecast:
    """GiB on the device: what is free, and what a step would need at the level that the run would begin with."""

    free: float
    level: int
    name: str
    """What the level does."""
    needed: float
    by_level: tuple[float, ...]
    """What a step needs at each level."""

    @property
    def fits(self) -> bool:
        """Whether the estimate is below what is free."""
        return self.needed <= self.free

    def plain(self) -> dict[str, object]:
        """As plain data for JSON."""
        return {**asdict(self), "fits": self.fits}


def forecast_memory(
    config: TrainConfig, base: Source, dataset: Dataset, trained: int, device: torch.device
) -> MemoryForecast | None:
    """The estimate for a run, from headers alone; None for a base whose network is of another kind.

    `trained`: the number of trained weights.
    """
    network = base.network_shape
    if network is None:
        return None
    dtype = dtype_of(config.precision) or base.default_dtype
    shape = largest_shape(dataset, dtype.itemsize)
    totals = [need(network, base.parameters, trained, shape, level).total / GIB for level in range(len(LEVELS))]
    free = free_memory(device) / GIB
    level = least_level(config)
    if config.memory == "auto":
        last = last_level(device, level)
        level = next((i for i in range(level, last) if totals[i] <= free), last)
    rounded = tuple(round(total, 2) for total in totals)
    return MemoryForecast(round(free, 2), level, LEVELS[level].name, rounded[level], rounded)


def memory_problems(forecast: MemoryForecast) -> list[Problem]:
    """A warning if a step is not expected to fit.

    It is no error: the estimate has a margin, and a run that lacks memory computes its steps in smaller parts.
    """
    if forecast.fits:
        return []
    return [
        Problem(
            "memory",
            f"a step is expected to need {forecast.needed:.1f} GiB, and {forecast.free:.1f} GiB are free",
            remedy="set data.batch_size or data.resolution lower, memory = 4, or close other programs",
        )
    ]
