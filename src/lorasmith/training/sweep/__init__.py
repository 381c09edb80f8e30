"""Many runs of one config: every combination of values, or a search among them. Each run is a process of its own."""

from lorasmith.training.sweep.sweep import SweepResult, SweepSettings, sweep

__all__ = ["SweepResult", "SweepSettings", "sweep"]
