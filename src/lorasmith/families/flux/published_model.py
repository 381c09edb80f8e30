"""The sizes of Flux.1 dev."""

from __future__ import annotations

from lorasmith.families.flux.file_names import DOUBLE_BLOCKS, SINGLE_BLOCKS, WIDTH, flux_layers
from lorasmith.families.flux.source import FluxSource, shape_of_sizes
from lorasmith.families.published_models import PublishedModel, register
from lorasmith.families.transformer_models.published import of_denoiser
from lorasmith.families.transformer_models.source import DENOISER

PARAMETERS = 11_901_408_320
"""Weights of the transformer; a test counts them."""


def flux_dev() -> PublishedModel:
    network = shape_of_sizes(WIDTH, DOUBLE_BLOCKS, SINGLE_BLOCKS)
    return PublishedModel(network, PARAMETERS, 0, of_denoiser(flux_layers()), FluxSource.layer_presets, DENOISER)


register("flux", flux_dev)
