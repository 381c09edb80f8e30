"""How pixels and latents relate, for code that runs before a base is loaded, such as the checks of a config."""

from __future__ import annotations

DOWNSCALE = 8
"""Pixels on the side of an image for each one on the side of its latent, in the VAE of every family so far."""
MAX_SIDE = 8192
"""Pixels of the longest side of a picture that is trained on or drawn; a typing error must not fill the memory."""
