"""diffusers' training scripts, with the options of the originals."""

from lorasmith.compat.diffusers import custom_diffusion, dreambooth, dreambooth_flow, text_to_image, textual_inversion

__all__ = ["custom_diffusion", "dreambooth", "dreambooth_flow", "text_to_image", "textual_inversion"]
