"""The VAE: diffusers' AutoencoderKL or AutoencoderTiny. diffusers is imported when the first image is encoded."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.core.errors import LorasmithError
from lorasmith.families.base import LatentDistribution
from lorasmith.families.reader import TensorRef, fill
from lorasmith.families.source import Source


def load_vae(source: Source, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The frozen autoencoder. Raises LorasmithError if any weight is missing or unknown."""
    model, refs = empty_vae(source)
    fill(model, refs, dtype, device, "VAE", source.where("vae"))
    return model.requires_grad_(False).eval()


def empty_vae(source: Source) -> tuple[nn.Module, dict[str, TensorRef]]:
    """The autoencoder on the meta device, and where its weights are stored."""
    # diffusers imports bitsandbytes, which warns of missing kernels.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import diffusers

    config = source.config("vae")
    name = config.get("_class_name", "AutoencoderKL")
    if name not in ("AutoencoderKL", "AutoencoderTiny"):
        raise LorasmithError(
            f"{source.where('vae')}: a VAE of class {name!r}; AutoencoderKL or AutoencoderTiny is supported"
        )
    vae_class: Any = getattr(diffusers, name)
    with torch.device("meta"):
        model: nn.Module = vae_class.from_config(config)
    return model, source.resolve("vae", model.state_dict())


def compute_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The VAE's dtype: float32 on the CPU, bf16 for a bf16 base on a GPU; never fp16, in which SDXL's VAE overflows."""
    if dtype == torch.bfloat16 and device.type != "cpu":
        return torch.bfloat16
    return torch.float32


@torch.no_grad()
def encode(vae: Any, pixels: Tensor) -> LatentDistribution:
    """(B, 3, H, W) in -1..1 to unscaled latents in float32."""
    first = next(vae.parameters())
    posterior = vae.encode(pixels.to(first.device, first.dtype))
    if hasattr(posterior, "latents"):  # AutoencoderTiny is deterministic
        return LatentDistribution(posterior.latents.float())
    return LatentDistribution(posterior.latent_dist.mean.float(), posterior.latent_dist.std.float())


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Tensor:
    """Unscaled latents to pixels (B, 3, H, W) in about -1..1, float32."""
    first = next(vae.parameters())
    return vae.decode(latents.to(first.device, first.dtype)).sample.float()
