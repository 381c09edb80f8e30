"""The network of Flux: diffusers' double and single blocks, and the packing of latents into tokens."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor, FluxTransformer2DModel
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

ATTENTION_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Without cuDNN's, which torch prefers on GPUs since the H100: with torch 2.11, its backward pass reads outside of its
memory in these blocks (an illegal memory access on an H200)."""


class FluxNetwork(FluxTransformer2DModel):
    """diffusers' transformer, called with latents like the other denoisers."""

    def forward(  # type: ignore[override]
        self, x: Tensor, t: Tensor, context: Tensor, pooled: Tensor, guidance: Tensor | None = None
    ) -> Tensor:
        """x (B, 16, h, w) with even h and w, t (B,) from 0 to 1000, context (B, tokens, width), pooled (B, width),
        guidance (B,) for dev: the velocity, like x."""
        height, width = x.shape[-2:]
        output = super().forward(
            hidden_states=pack(x).to(context.dtype),
            encoder_hidden_states=context,
            pooled_projections=pooled.to(context.dtype),
            # diffusers multiplies time and guidance by 1000
            timestep=t / 1000,  # pyright: ignore[reportArgumentType]
            guidance=guidance,  # pyright: ignore[reportArgumentType]
            img_ids=image_positions(height // 2, width // 2, x.device),
            txt_ids=torch.zeros(context.shape[1], 3, device=x.device),
            return_dict=False,
        )[0]
        return unpack(output, height, width)


class AttentionWithoutCudnn(FluxAttnProcessor):
    """diffusers' attention of a block, on the `ATTENTION_BACKENDS` alone. It is part of the block, so that it also
    holds where gradient checkpointing computes a block again."""

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        with sdpa_kernel(ATTENTION_BACKENDS):
            return super().__call__(*inputs, **named)


def pack(x: Tensor) -> Tensor:
    """Latents (B, C, h, w) as tokens (B, h/2 w/2, 4 C) of 2 x 2 latents each."""
    return x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens (B, h/2 w/2, 4 C) as latents (B, C, height, width)."""
    grid = tokens.unflatten(1, (height // 2, width // 2)).unflatten(3, (-1, 2, 2))
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, height, width)


def image_positions(rows: int, columns: int, device: torch.device) -> Tensor:
    """(rows columns, 3): 0, row and column of each token, for the rotary embedding; those of text are 0."""
    grid = torch.cartesian_prod(torch.arange(rows, device=device), torch.arange(columns, device=device))
    return torch.nn.functional.pad(grid.view(-1, 2), (1, 0)).float()
