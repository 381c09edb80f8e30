"""The network of SD3: diffusers' MMDiT, with dual attention and QK norm where the model has them."""

from __future__ import annotations

from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from torch import Tensor


class MMDiT(SD3Transformer2DModel):
    """diffusers' transformer, called like the other denoisers."""

    def forward(self, x: Tensor, t: Tensor, context: Tensor, pooled: Tensor) -> Tensor:  # type: ignore[override]
        """x (B, 16, h, w), t (B,) from 0 to 1000, context (B, tokens, width), pooled (B, width): the velocity."""
        dtype = self.context_embedder.weight.dtype if hasattr(self.context_embedder, "weight") else self.dtype
        inputs = (x.to(dtype), context.to(dtype), pooled.to(dtype))
        # diffusers takes fractional timesteps, too, whatever the annotation says
        return super().forward(*inputs, timestep=t, return_dict=False)[0]  # pyright: ignore[reportArgumentType]
