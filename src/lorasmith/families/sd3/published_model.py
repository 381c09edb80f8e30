"""The sizes of SD3.5 medium."""

from __future__ import annotations

from lorasmith.families.published_models import PublishedModel, register
from lorasmith.families.sd3.file_names import MEDIUM, PATCH, sd3_layers
from lorasmith.families.sd3.source import SD3Source, shape_of_sizes
from lorasmith.families.transformer_models.published import of_denoiser
from lorasmith.families.transformer_models.source import DENOISER

PARAMETERS = 2_243_171_520
"""Weights of the transformer; a test counts them."""


def sd35_medium() -> PublishedModel:
    network = shape_of_sizes(MEDIUM.width, MEDIUM.blocks, MEDIUM.dual, PATCH)
    return PublishedModel(network, PARAMETERS, 0, of_denoiser(sd3_layers(MEDIUM)), SD3Source.layer_presets, DENOISER)


register("sd3", sd35_medium)
