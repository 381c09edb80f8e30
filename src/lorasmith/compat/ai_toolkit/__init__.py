"""ai-toolkit: its YAML and JSON files of image LoRAs."""

from lorasmith.compat.ai_toolkit.script import AiToolkit

__all__ = ["AiToolkit"]
