"""Trainable changes of frozen layers. One file a kind."""

from lorasmith.adapters.base import Adapter, AdapterConfig, LayerSpec

__all__ = ["Adapter", "AdapterConfig", "LayerSpec"]
