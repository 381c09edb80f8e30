"""What a rule on how other programs load a LoRA file is; the programs, and the effects that a rule can state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lorasmith.formats.consumer_conditions import Condition, LayerCondition

A1111, FORGE, COMFY, INVOKE, DIFFUSERS = "A1111", "Forge", "ComfyUI", "InvokeAI", "diffusers"
READERS = (A1111, FORGE, COMFY, INVOKE, DIFFUSERS)
USER_INTERFACES = (A1111, FORGE, COMFY, INVOKE)
Effect = Literal["yes", "partly", "wrong", "no"]
"""Loads with training's weights; some layers are left out; other weights than training's; not loaded at all."""
EFFECTS: tuple[Effect, ...] = ("yes", "partly", "wrong", "no")
"""From the best to the worst."""
MAX_UNKNOWN_TENSORS_OF_FORGE = 12


@dataclass(frozen=True)
class Rule:
    """Files that meet `condition` have `effect` in `readers`; `reason` explains it."""

    readers: tuple[str, ...]
    effect: Effect
    reason: str
    condition: Condition


@dataclass(frozen=True)
class LayerRule:
    """Layers that meet `is_missed` are left out by `readers`; `reason` explains it."""

    readers: tuple[str, ...]
    reason: str
    is_missed: LayerCondition
