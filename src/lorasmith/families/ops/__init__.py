"""The operations of the UNet in their plain form, or in a faster one where it applies (frozen_conv.py,
channels_last.py).

Layers are passed as modules and called, and their weights are never read: an adapter may stand in their place. Images
are (B, C, H, W), sequences (B, tokens, C). Norms compute their statistics in float32 whatever the dtype (torch's
kernels do).
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lorasmith.families.ops import channels_last, frozen_conv


def conv(layer: nn.Module, x: Tensor) -> Tensor:
    """A convolution."""
    return frozen_conv.conv(layer, x) if frozen_conv.applies(layer, x) else layer(x)


def gn_silu(norm: nn.Module, x: Tensor) -> Tensor:
    """SiLU(GroupNorm(x))."""
    if channels_last.applies(norm, x):
        return channels_last.group_norm(norm, x, True)
    return F.silu(norm(x))


def gn(norm: nn.Module, x: Tensor) -> Tensor:
    """GroupNorm(x)."""
    return channels_last.group_norm(norm, x, False) if channels_last.applies(norm, x) else norm(x)


def ln_qkv(norm: nn.Module, attn: Any, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of LayerNorm(x), keys and values of the same or of `context`: (B, tokens, heads * head width) each."""
    h = norm(x)
    source = h if context is None else context
    return attn.to_q(h), attn.to_k(source), attn.to_v(source)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(head width)) v per head; (B, tokens, heads * head width) like q."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer."""
    return layer(x)


def ln_geglu(norm: nn.Module, proj: nn.Module, x: Tensor) -> Tensor:
    """a * GELU(b), where a and b are the halves of proj(LayerNorm(x)) (arXiv 2002.05202)."""
    a, b = proj(norm(x)).chunk(2, -1)
    return a * F.gelu(b)
