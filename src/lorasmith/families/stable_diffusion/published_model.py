"""The sizes of Stable Diffusion 1.5, 2.1 and SDXL."""

from __future__ import annotations

from functools import partial

from lorasmith.families.published_models import PublishedModel, register
from lorasmith.families.stable_diffusion.layer_names import layers, published_unet
from lorasmith.families.stable_diffusion.presets import PRESETS

PARAMETERS = {
    "sd1": (859_520_964, 123_060_480),
    "sd2": (865_910_724, 340_387_840),
    "sdxl": (2_567_463_684, 817_719_552),
}
"""Weights of the published UNets and of their text encoders."""


def stable_diffusion(kind: str) -> PublishedModel:
    parameters, text_parameters = PARAMETERS[kind]
    return PublishedModel(published_unet(kind), parameters, text_parameters, layers(kind), PRESETS, "unet")


for _kind in PARAMETERS:
    register(_kind, partial(stable_diffusion, _kind))
