"""What training minimises. One file a kind."""

from lorasmith.train.objectives.base import Objective, StepResult

__all__ = ["Objective", "StepResult"]
