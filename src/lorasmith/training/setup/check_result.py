"""What a check of a config found. Does not import torch, so that a wrong config is answered at once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lorasmith.core.errors import Problem
from lorasmith.data.remarks import Remark


@dataclass(frozen=True)
class StepMeasurement:
    """Time and memory of two real steps on this machine."""

    seconds_first: float
    """The first step also warms up caches and kernels."""
    seconds_per_step: float
    hours: float
    """Of all steps of the run, without previews and validation."""
    peak_memory: int
    """Bytes: of the GPU, or of the process on a CPU."""
    loss: float | None
    cache_seconds: float
    """Loading the base, and encoding what was not cached; the run itself then finds it in the cache."""


@dataclass
class CheckResult:
    """Everything that is known before training. `errors` keep a run from starting; `warnings` do not."""

    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    base: dict[str, Any] = field(default_factory=dict)
    """source, path, kind, layout, prediction, parameters."""
    adapter: dict[str, Any] = field(default_factory=dict)
    """kind, rank, alpha; layers and parameters by component."""
    data: dict[str, Any] = field(default_factory=dict)
    """images, buckets and the like."""
    device: str = ""
    """The device that trains, by the name that it gives itself."""
    memory: dict[str, Any] = field(default_factory=dict)
    """GiB that are free and that a step is expected to need, and the memory level; see `MemoryForecast`."""
    images: list[Remark] = field(default_factory=list)
    """What is suspicious about images, captions and other files of the data. `train` stops at serious ones."""
    length: dict[str, Any] = field(default_factory=dict)
    """steps, epochs, steps_per_epoch, samples, views_per_image."""
    rates: dict[str, dict[str, float]] = field(default_factory=dict)
    """Component to `lr`, `scale` (alpha / rank) and `effective` (lr x scale)."""
    measured: StepMeasurement | None = None
    pictures: Path | None = None
    """The contact sheet of the first batches."""

    @property
    def ok(self) -> bool:
        """Whether a run would start, at least with `--yes`."""
        return not self.errors

    @property
    def output_is_taken(self) -> bool:
        """Whether an older run or export is in the way."""
        return any(problem.where in ("output", "export.folder") for problem in self.warnings)

    @property
    def serious(self) -> list[Remark]:
        """The remarks at which `train` stops, unless they are accepted."""
        return [remark for remark in self.images if remark.severity == "serious"]

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        pictures = None if self.pictures is None else str(self.pictures)
        return {"ok": self.ok, "serious": len(self.serious), **asdict(self), "pictures": pictures}
