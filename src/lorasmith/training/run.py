"""A run: everything the loop needs, built once from the config."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lorasmith.adapters.attach import AdapterSet
from lorasmith.concepts.train import TokenTrainer
from lorasmith.core.progress import Progress
from lorasmith.data.dataset import Dataset
from lorasmith.families.base import Family
from lorasmith.training.config import TrainConfig
from lorasmith.training.hooks import Hook
from lorasmith.training.output.events import Events
from lorasmith.training.step.cuda_graph import CudaGraphs
from lorasmith.training.step.distributed import Ranks
from lorasmith.training.step.ema import Ema
from lorasmith.training.step.gradients import LossScale
from lorasmith.training.step.metrics import MetricsBuffer
from lorasmith.training.step.optimizers import averaged_weights


@dataclass(frozen=True)
class Length:
    """How long the run is."""

    steps: int
    steps_per_epoch: int
    samples_per_epoch: int

    @property
    def epochs(self) -> float:
        return self.steps / self.steps_per_epoch

    @property
    def samples(self) -> int:
        return round(self.epochs * self.samples_per_epoch)


@dataclass
class TrainState:
    """The position: the only counters that change. The place in the data follows from `step`."""

    step: int = 0
    """Optimizer steps made."""
    samples: int = 0
    """Samples seen."""
    seconds: float = 0.0
    """Time spent in steps, over all parts of a resumed run."""


@dataclass
class Run:
    """The parts of a run. Only `state`, the adapter's weights, the optimizer and `ema` change."""

    config: TrainConfig
    folder: Path
    family: Family
    dataset: Dataset
    adapters: AdapterSet
    optimizer: torch.optim.Optimizer
    ema: Ema | None
    length: Length
    device: torch.device
    progress: Progress
    events: Events
    hooks: tuple[Hook, ...]
    loss_scale: LossScale
    token_trainer: TokenTrainer | None = None
    """New words that are learned."""
    cuda_graphs: CudaGraphs | None = None
    """Steps as CUDA graphs, where there is a GPU."""
    ranks: Ranks = field(default_factory=Ranks)
    """The processes that train together; this one alone by default."""
    state: TrainState = field(default_factory=TrainState)
    metrics: MetricsBuffer = field(default_factory=MetricsBuffer)
    hook_state: dict[str, float] = field(default_factory=dict)
    """What hooks remember for the length of this process, by name: when each last acted, the loss of the base model."""
    started: float = field(default_factory=time.time)
    """Seconds since 1970."""
    resumed: bool = False
    """Whether it goes on from a checkpoint."""
    stopping: bool = False
    """Set by Ctrl-C: the loop ends after the step under way."""

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """All that is trained."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def relative_path(self, path: Path) -> str:
        """A file's path as events and reports name it: relative to the run's folder, which may be moved with it."""
        try:
            return Path(os.path.relpath(path, self.folder)).as_posix()
        except ValueError:  # on another drive
            return path.as_posix()

    @contextmanager
    def as_exported(self) -> Iterator[None]:
        """The adapter as it will be exported: in eval mode, averaged if there is an average."""
        self.adapters.eval()
        try:
            with self.ema.swapped_in() if self.ema else averaged_weights(self.optimizer), torch.no_grad():
                yield
        finally:
            self.adapters.train()

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """The model as it was before training."""
        with (
            self.adapters.enabled(False),
            self.token_trainer.vocabulary.initially() if self.token_trainer else nullcontext(),
        ):
            yield
