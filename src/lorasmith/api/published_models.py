"""The sizes of the published models of each family, for forecasts without a base."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from lorasmith.adapters.base import LayerSpec
from lorasmith.families.flux import file_names as flux
from lorasmith.families.flux.source import FluxSource
from lorasmith.families.flux.source import shape_of_sizes as flux_shape
from lorasmith.families.network_shape import NetworkShape
from lorasmith.families.sd3 import file_names as sd3
from lorasmith.families.sd3.source import SD3Source
from lorasmith.families.sd3.source import shape_of_sizes as sd3_shape
from lorasmith.families.stable_diffusion.layer_names import layers, published_unet
from lorasmith.families.stable_diffusion.presets import PRESETS
from lorasmith.families.transformer_models.source import DENOISER

FLUX_PARAMETERS = 11_901_408_320
"""Weights of the transformer of Flux.1 dev; a test counts them."""
SD35_MEDIUM_PARAMETERS = 2_243_171_520
"""Weights of the transformer of SD3.5 medium; a test counts them."""


@dataclass(frozen=True)
class PublishedModel:
    """What a forecast needs of a model."""

    network: NetworkShape
    parameters: int
    """Weights of the denoiser."""
    text_parameters: int
    """Weights of the text encoders that stay in memory while they are trained."""
    layers: tuple[LayerSpec, ...]
    presets: Mapping[str, tuple[str, ...]]
    denoiser: str
    """The component name of the denoiser."""


@lru_cache
def published_model(kind: str) -> PublishedModel:
    """The published model of a family. Raises KeyError for a family without one."""
    return _MODELS[kind](kind)


_UNETS = {"sd1": (859_520_964, 123_060_480), "sd2": (865_910_724, 340_387_840), "sdxl": (2_567_463_684, 817_719_552)}
"""Weights of the published UNets and of their text encoders."""


def _stable_diffusion(kind: str) -> PublishedModel:
    parameters, text_parameters = _UNETS[kind]
    return PublishedModel(published_unet(kind), parameters, text_parameters, layers(kind), PRESETS, "unet")


def _flux(kind: str) -> PublishedModel:
    """Flux.1 dev."""
    network = flux_shape(flux.WIDTH, flux.DOUBLE_BLOCKS, flux.SINGLE_BLOCKS)
    return _of_transformer(flux.flux_layers(), network, FLUX_PARAMETERS, FluxSource.layer_presets)


def _sd3(kind: str) -> PublishedModel:
    """SD3.5 medium."""
    size = sd3.MEDIUM
    network = sd3_shape(size.width, size.blocks, size.dual, sd3.PATCH)
    return _of_transformer(sd3.sd3_layers(size), network, SD35_MEDIUM_PARAMETERS, SD3Source.layer_presets)


def _of_transformer(
    specs: Iterable[LayerSpec], network: NetworkShape, parameters: int, presets: Mapping[str, tuple[str, ...]]
) -> PublishedModel:
    """A forecast trains the transformer alone."""
    of_denoiser = tuple(spec for spec in specs if spec.component == DENOISER)
    return PublishedModel(network, parameters, 0, of_denoiser, presets, DENOISER)


_MODELS: dict[str, Callable[[str], PublishedModel]] = {
    **dict.fromkeys(_UNETS, _stable_diffusion),
    "flux": _flux,
    "sd3": _sd3,
}
