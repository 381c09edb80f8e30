"""What happens beside the steps: log, preview, validate, export, checkpoint. One file a kind."""

from lorasmith.training.hooks.base import Hook

__all__ = ["Hook"]
