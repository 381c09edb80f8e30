"""What training minimises. One file a kind."""

from lorasmith.training.step.objectives.base import Objective, StepResult

__all__ = ["Objective", "StepResult"]
