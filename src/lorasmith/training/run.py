"""A run: everything that the training step and the hooks use, built once from the config."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lorasmith.adapters.attach import AdapterSet
from lorasmith.concepts.token_trainer import TokenTrainer
from lorasmith.conditions.attach import ConditionSet
from lorasmith.core.progress import Progress
from lorasmith.data.dataset import Dataset
from lorasmith.families.base import Family
from lorasmith.training.output.events import Events
from lorasmith.training.step.cuda_graph import CudaGraphs
from lorasmith.training.step.distributed import Ranks
from lorasmith.training.step.ema import Ema
from lorasmith.training.step.gradients import LossScale
from lorasmith.training.step.lr_schedules import LrSchedule
from lorasmith.training.step.metrics import MetricsBuffer
from lorasmith.training.step.objectives import Objective
from lorasmith.training.step.optimizers import averaged_weights
from lorasmith.training.step.out_of_memory import MemoryUse

if TYPE_CHECKING:
    from lorasmith.training.config import TextConfig, TrainConfig
    from lorasmith.training.hooks import Hook


@dataclass(frozen=True)
class Length:
    """How long the run is."""

    steps: int
    """Optimizer steps of the whole run."""
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
    """The position of the run. The place in the data follows from `step`."""

    step: int = 0
    """Optimizer steps made."""
    samples: int = 0
    """Samples seen."""
    seconds: float = 0.0
    """Time spent in steps, over all parts of a resumed run."""


@dataclass
class Run:
    """The parts of a run. Training changes `state`, the trained parameters, `optimizer`, `ema` and `loss_scale`."""

    config: TrainConfig
    """Read by what describes the run in its files (exports, checkpoints, summary). Steps read the values below."""
    name: str
    """Of the LoRA file, without suffix."""
    folder: Path
    seed: int
    length: Length
    device: torch.device
    trigger: tuple[str, ...]
    """The words that stand for what is learned."""

    # What is trained, on what, and how the loss is computed.
    family: Family
    dataset: Dataset
    caption_encoding: TextConfig
    objective: Objective
    adapters: AdapterSet
    token_trainer: TokenTrainer | None
    """Trains the embeddings of new tokens; None if there are none."""
    conditions: ConditionSet
    """The conditions with their encoders, attached; empty if there are none."""

    # How the weights are updated.
    parameters: list[torch.nn.Parameter]
    """All trained parameters, in the order of the optimizer's groups."""
    optimizer: torch.optim.Optimizer
    lr_schedule: LrSchedule
    accumulation: int
    """Micro-batches in one optimizer step."""
    gradient_clip: float
    """The largest total norm of the gradients; 0: no clipping."""
    phases: Mapping[str, tuple[float, float]]
    """From when to when a kind of parameter group is trained, as shares of the run; those not named, throughout."""
    ema: Ema | None
    loss_scale: LossScale

    # What happens beside the steps.
    hooks: tuple[Hook, ...]
    events: Events
    progress: Progress

    ranks: Ranks = field(default_factory=Ranks)
    """The processes that train together; by default this one alone."""
    cuda_graphs: CudaGraphs | None = None
    """Captured steps, if steps are captured as CUDA graphs."""
    memory: MemoryUse = field(default_factory=MemoryUse)
    """How steps use memory at present; changes when it does not suffice."""
    state: TrainState = field(default_factory=TrainState)
    metrics: MetricsBuffer = field(default_factory=MetricsBuffer)
    hook_state: dict[str, float] = field(default_factory=dict)
    """What hooks remember while this process runs, by name: when each last acted, the loss of the base model."""
    started: float = field(default_factory=time.time)
    """Seconds since 1970."""
    started_from_file: bool = False
    """Whether the adapters come from a file (`start`), so that their change did not begin at 0."""
    resumed: bool = False
    """Whether it continues from a checkpoint."""
    stopping: bool = False
    """Set by Ctrl-C: the loop ends after the current step."""
    base_fingerprints: dict[str, str] = field(init=False)
    """The fingerprints of the parts of the base, for the metadata of files. Taken at set-up, since the files of
    the base may be gone by the end of the run."""

    def __post_init__(self) -> None:
        parts = (self.family.denoiser_component, "text", "vae")
        self.base_fingerprints = {part: self.family.fingerprint(part) for part in parts}

    def relative_path(self, path: Path) -> str:
        """A file's path as events and reports name it: relative to the run's folder, which may be moved with it."""
        try:
            return Path(os.path.relpath(path, self.folder)).as_posix()
        except ValueError:  # on another drive
            return path.as_posix()

    @contextmanager
    def as_exported(self) -> Iterator[None]:
        """Inside the block the adapter is as an export has it: in eval mode, and averaged if there is an average."""
        weights = self.ema.swapped_in() if self.ema else averaged_weights(self.optimizer)
        self.adapters.eval()
        self.conditions.train(False)
        try:
            with weights, torch.no_grad():
                yield
        finally:
            self.adapters.train()
            self.conditions.train()

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Inside the block the model is as it was before training."""
        initial_tokens = self.token_trainer.vocabulary.with_initial_vectors() if self.token_trainer else nullcontext()
        with self.adapters.enabled(False), self.conditions.disabled(), initial_tokens:
            yield
