"""Whether a base can be trained and drawn with: the kind of its UNet, and the tensors of all its parts, by headers."""

from __future__ import annotations

import torch
from torch import nn

from lorasmith.core.component_names import is_text_encoder
from lorasmith.core.errors import LorasmithError
from lorasmith.families.reader import TensorRef, check_keys
from lorasmith.families.stable_diffusion import text, vae
from lorasmith.families.stable_diffusion.source import PARTS, StableDiffusionSource, part_title
from lorasmith.families.stable_diffusion.unet import UNet

LATENT_CHANNELS = 4
OTHER_INPUTS = {
    5: "a depth-to-image model: its UNet also takes a depth map",
    7: "an upscaler: its UNet also takes the small picture",
    8: "an editing model (InstructPix2Pix): its UNet also takes the picture to edit",
    9: "an inpainting model: its UNet also takes a mask and the masked picture",
}
"""What a UNet is whose first convolution has more than the 4 channels of latents."""


def check_parts(source: StableDiffusionSource, every_name: bool) -> None:
    """`Source.check_parts` for Stable Diffusion."""
    faults: list[str] = []
    for part in PARTS[source.kind]:
        try:
            if part == "unet":
                check_unet_input(source)
            if every_name:
                model, refs = empty_part(source, part)
                shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
                check_keys(shapes, refs, part_title(part), source.where(part))
            else:
                source.raw(part)
        except LorasmithError as error:
            faults.append(str(error))
    if faults:
        raise LorasmithError("\n  ".join(faults))


def check_unet_input(source: StableDiffusionSource) -> None:
    """Raise LorasmithError if the UNet takes more than latents, which is neither trained nor drawn with here."""
    first = source.resolve("unet", ["conv_in.weight"]).get("conv_in.weight")
    if first is None or len(first.shape) < 2 or first.shape[1] == LATENT_CHANNELS:
        return
    channels = first.shape[1]
    what = OTHER_INPUTS.get(channels, "not an ordinary text-to-image model")
    raise LorasmithError(
        f"{source.where('unet')}: {what} ({channels} channels; text-to-image models have {LATENT_CHANNELS}). "
        "It cannot be trained or sampled with here. Use the text-to-image model that it was made from: a LoRA of that "
        "model works with it, too."
    )


def empty_part(source: StableDiffusionSource, part: str) -> tuple[nn.Module, dict[str, TensorRef]]:
    """A part on the meta device, and where its weights are stored. Raises LorasmithError if there are none."""
    if is_text_encoder(part):
        return text.empty_text_encoder(source, part)
    return vae.empty_vae(source) if part == "vae" else empty_unet(source)


def empty_unet(source: StableDiffusionSource) -> tuple[UNet, dict[str, TensorRef]]:
    """The UNet on the meta device, and where its weights are stored."""
    with torch.device("meta"):
        unet = UNet(source.unet_config)
    return unet, source.resolve("unet", unet.state_dict())
