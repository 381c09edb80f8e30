"""Many runs of one config: every combination of values, or a search among them; one process a run."""

from lorasmith.training.sweep.sweep import Sweep, SweepResult, sweep

__all__ = ["Sweep", "SweepResult", "sweep"]
