"""Conditions: pictures that go with the images of a run, as further inputs of the network. One file a kind."""

from lorasmith.conditions.base import Condition, ConditionEncoder

__all__ = ["Condition", "ConditionEncoder"]
