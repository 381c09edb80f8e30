"""Names of a model's components, with which layer names begin: `unet.mid_block...`, `te.text_model...`.

A family names its denoiser as it likes (`unet` for Stable Diffusion). Text encoders are called `te`, or, where there
are several, `te1`, `te2` ...
"""

from __future__ import annotations

import re


def component_of(layer: str) -> str:
    """The component that a layer name begins with."""
    return layer.partition(".")[0]


def is_text_encoder(component: str) -> bool:
    """Whether a component is a text encoder, rather than the denoiser or the VAE."""
    return re.fullmatch(r"te\d*", component) is not None
