"""What a run does beside its steps: log, preview, validate, export, save checkpoints. One file for each kind."""

from lorasmith.training.hooks.base import Hook

__all__ = ["Hook"]
