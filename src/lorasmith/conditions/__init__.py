"""Conditions: pictures that go with the images of a run, as further inputs of the network. One file a kind."""

from typing import TYPE_CHECKING, Any

from lorasmith.conditions.base import Condition

if TYPE_CHECKING:
    from lorasmith.conditions.encoder import ConditionEncoder

__all__ = ["Condition", "ConditionEncoder"]


def __getattr__(name: str) -> Any:
    """`ConditionEncoder`, imported when it is first used: it needs torch, and settings do not."""
    if name != "ConditionEncoder":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lorasmith.conditions import encoder

    return encoder.ConditionEncoder
