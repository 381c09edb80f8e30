"""What a run trains, as the groups of its optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lorasmith.adapters.attach import AdapterSet
from lorasmith.concepts.token_trainer import TokenTrainer
from lorasmith.conditions.attach import ConditionSet
from lorasmith.core.component_names import is_text_encoder
from lorasmith.training.config import TrainConfig
from lorasmith.training.step.optimizers import Groups


@dataclass(frozen=True)
class Trained:
    """What a run trains."""

    adapters: AdapterSet
    conditions: ConditionSet
    token_trainer: TokenTrainer | None


def parameter_groups(config: TrainConfig, trained: Trained) -> Groups:
    """The optimizer's groups in a fixed order: one for each component and learning rate factor, one for each concept,
    one for each condition that has parameters.

    The names and keys of groups are part of a checkpoint.
    """
    groups: Groups = []
    for component in trained.adapters.components():
        for factor, parameters in trained.adapters.parameters_by_rate(component).items():
            learning_rate = config.optimizer.rate(component) * factor
            group: dict[str, Any] = {
                "params": parameters,
                "lr": learning_rate,
                "base_lr": learning_rate,
                "name": component if factor == 1 else f"{component} x{factor:g}",
                "part": "text" if is_text_encoder(component) else "unet",
            }
            # without a value of its own, a group has the optimizer's
            if is_text_encoder(component) and config.optimizer.text_weight_decay is not None:
                group["weight_decay"] = config.optimizer.text_weight_decay
            groups.append(group)
    if trained.token_trainer is not None:
        for concept, parameters in zip(config.concepts, trained.token_trainer.parameters, strict=True):
            groups.append(
                {
                    "params": parameters,
                    "lr": concept.lr,
                    "base_lr": concept.lr,
                    "name": " ".join(concept.words),
                    "part": "words",
                    "weight_decay": concept.weight_decay,
                }
            )
    for attached in trained.conditions.conditions:
        parameters = trained.conditions.parameters(attached)
        if parameters:
            learning_rate = attached.condition.lr
            groups.append(
                {
                    "params": parameters,
                    "lr": learning_rate,
                    "base_lr": learning_rate,
                    "name": f"condition {attached.input.name}",
                    "part": "conditions",
                }
            )
    return groups
