"""The training scripts of diffusers, by their own flags."""

from lorasmith.compat.diffusers import custom_diffusion, dreambooth, text_to_image, textual_inversion

__all__ = ["custom_diffusion", "dreambooth", "text_to_image", "textual_inversion"]
