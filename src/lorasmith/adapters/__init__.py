"""Trainable changes of frozen layers. One file a kind."""

from typing import TYPE_CHECKING, Any

from lorasmith.adapters.base import AdapterConfig, LayerSpec

if TYPE_CHECKING:
    from lorasmith.adapters.adapter import Adapter

__all__ = ["Adapter", "AdapterConfig", "LayerSpec"]


def __getattr__(name: str) -> Any:
    """`Adapter`, imported when it is first used: it needs torch, and settings do not."""
    if name != "Adapter":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lorasmith.adapters import adapter

    return adapter.Adapter
