"""The sizes of the published model of each family, for forecasts without a base. A folder of this package enters its
own by a module `published_model.py` that calls `register`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from lorasmith.adapters.base import LayerSpec
from lorasmith.families.folders import import_of_each, no_such_family
from lorasmith.families.network_shape import NetworkShape


@dataclass(frozen=True)
class PublishedModel:
    """What a forecast needs of a model."""

    network: NetworkShape
    parameters: int
    """Weights of the denoiser."""
    text_parameters: int
    """Weights of the text encoders that stay in memory while they are trained; 0: a forecast trains none."""
    layers: tuple[LayerSpec, ...]
    presets: Mapping[str, tuple[str, ...]]
    denoiser: str
    """The component name of the denoiser."""


_MODELS: dict[str, Callable[[], PublishedModel]] = {}


def register(kind: str, model: Callable[[], PublishedModel]) -> None:
    """Enter the model of a family in the table; called by each `published_model.py`."""
    _MODELS[kind] = model


@lru_cache
def published_model(kind: str) -> PublishedModel:
    """The published model of a family. Raises LorasmithError for a family without one."""
    import_of_each("published_model")
    if kind not in _MODELS:
        raise no_such_family(kind, _MODELS)
    return _MODELS[kind]()
