"""Which hooks a run has, in which order."""

from __future__ import annotations

from lorasmith.core.errors import LorasmithError
from lorasmith.data.dataset import Dataset
from lorasmith.training.config import TrainConfig
from lorasmith.training.hooks import Hook
from lorasmith.training.hooks.control import Control
from lorasmith.training.hooks.live_report import LiveReport
from lorasmith.training.hooks.training_facts import TrainingFacts
from lorasmith.training.step.distributed import Ranks


def check_held_out(config: TrainConfig, dataset: Dataset) -> None:
    """Raises LorasmithError for a hook that needs held-out images where there are none."""
    needing = [str(hook.model_dump()["kind"]) for hook in config.hooks if hook.needs_held_out]
    if needing and not dataset.validation:
        raise LorasmithError(f"hooks: {needing[0]} needs held-out images; set data.validation.split = 0.1")


def active_hooks(config: TrainConfig, ranks: Ranks) -> tuple[Hook, ...]:
    """The hooks of this rank in the order they act after a step: losses are read first, the checkpoint comes after the
    other files.

    Ranks other than the first read their losses, to notice a diverged run, and write nothing.
    """
    if not ranks.first:
        return (config.log,)
    optional = [hook for hook in (config.validation, config.preview) if hook is not None]
    # weights are judged when their losses are measured and their exports written
    best = () if config.best is None else (config.best,)
    # requests come after what is due anyway
    return (
        config.log,
        *optional,
        config.export,
        *best,
        *config.hooks,
        config.checkpoint,
        TrainingFacts(),
        Control(),
        LiveReport(),
    )
