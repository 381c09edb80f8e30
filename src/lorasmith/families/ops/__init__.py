"""The operations of the UNet in their plain form, or in a faster one where it applies.

Layers are passed as modules. The plain forms call them and never read their weights: an adapter may stand in their
place. The fast forms are in the other files of this folder; each says when it applies, and a test compares it with the
plain form. Images are (B, C, H, W), sequences (B, tokens, C). Norms compute their statistics in float32 whatever the
dtype (torch's kernels do).

Blocks that add their result to their input x take x back from the operation that reads it first (`fork`), and hand
over what is to be added (`branch`), so that the addition and both gradients need no pass of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lorasmith.families.ops import (
    frozen_conv,
    geglu,
    group_norm,
    kernels,
    layer_norm,
    lean_geglu,
    low_rank,
    residual,
    stacked_layers,
)

one_refresh = stacked_layers.one_refresh
ENABLED = True
"""Whether the fast forms are used where they apply."""


def conv(layer: nn.Module, x: Tensor) -> Tensor:
    """A convolution; one with a kernel of 1x1 is a matrix product over the pixels where the fast forms apply."""
    forms = stacked_layers.forms_of([layer], x) if ENABLED else None
    if forms is not None:
        return image(low_rank.project(stacked_layers.stack(forms), forms, sequence(x))[0], x.shape[-2:])
    return frozen_conv.conv(layer, x) if frozen_conv.applies(layer, x) else layer(x)


def conv_gn_silu(layer: nn.Module, norm: nn.Module, x: Tensor, shift: Tensor) -> Tensor:
    """SiLU(GroupNorm(layer(x) + shift)), with a shift (B, C) for each channel."""
    if not shift.requires_grad and _is_bare_conv(layer, x) and group_norm.applies(norm, x):
        bias: Any = layer.bias
        h = frozen_conv.conv(layer, x, with_bias=False)
        return group_norm.group_norm(norm, h, True, group_norm.Offset(shift, bias))
    return gn_silu(norm, conv(layer, x) + shift[:, :, None, None])


def conv_add(layer: nn.Module, x: Tensor, image: Tensor) -> Tensor:
    """layer(x) + image."""
    if _is_bare_conv(layer, x) and residual.applies(x):
        bias: Any = layer.bias
        return residual.add(frozen_conv.conv(layer, x, with_bias=False), image, bias)
    return conv(layer, x) + image


def _is_bare_conv(layer: nn.Module, x: Tensor) -> bool:
    return ENABLED and kernels.usable(x) and frozen_conv.applies(layer, x) and layer.bias is not None


def gn_silu(norm: nn.Module, x: Tensor) -> Tensor:
    """SiLU(GroupNorm(x))."""
    if group_norm.applies(norm, x):
        return group_norm.group_norm(norm, x, True)
    return F.silu(norm(x))


def fork_gn_silu(norm: nn.Module, x: Tensor, skip: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x, joined with the channels of a skip connection, and its SiLU(GroupNorm(x))."""
    if ENABLED and group_norm.applies(norm, x):
        return group_norm.fork_group_norm(norm, x, True, skip)
    if skip is not None:
        x = torch.cat([x, skip], 1)
    return x, gn_silu(norm, x)


def fork_gn(norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """x and GroupNorm(x)."""
    if group_norm.applies(norm, x):
        return group_norm.fork_group_norm(norm, x, False)
    return x, norm(x)


def add_ln_project(
    norm: nn.Module, layers: Sequence[nn.Module], x: Tensor, branch: Tensor | None = None
) -> tuple[Tensor, ...]:
    """x + branch, and the outputs of linear layers for its LayerNorm. Without a branch the first is x."""
    if ENABLED and layer_norm.applies(norm, x):
        forms = stacked_layers.forms_of(layers, x)
        if forms is not None:
            return low_rank.add_norm_project(norm, stacked_layers.stack(forms), forms, x, branch)
        x, h = layer_norm.add_norm(norm, x, branch)
    else:
        x = x if branch is None else x + branch
        h = norm(x)
    return (x, *(layer(h) for layer in layers))


def project(layers: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, ...]:
    """The outputs of linear layers with the same input."""
    forms = stacked_layers.forms_of(layers, x) if ENABLED else None
    if forms is not None:
        return low_rank.project(stacked_layers.stack(forms), forms, x)
    return tuple(layer(x) for layer in layers)


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer."""
    return project([layer], x)[0]


def can_recompute(layers: Sequence[nn.Module], x: Tensor) -> bool:
    """Whether `recomputed` may be used for operations with these layers: they are fused, so that nothing is drawn."""
    fused = ENABLED and all(stacked_layers.forms_of([layer], x) is not None for layer in layers)
    return fused and torch.is_grad_enabled()


def recomputed(operation: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """operation(*inputs), of which the backward pass keeps the inputs only and computes the rest again."""
    return checkpoint(operation, *inputs, use_reentrant=False, preserve_rng_state=False)  # type: ignore[return-value]


def from_image(layer: nn.Module, x: Tensor, *, is_linear: bool) -> Tensor:
    """A linear layer or 1x1 convolution over the pixels of an image; returns a sequence, (B, H W, C)."""
    return linear(layer, sequence(x)) if is_linear else sequence(conv(layer, x))


def to_image(layer: nn.Module, x: Tensor, size: Sequence[int], *, is_linear: bool) -> Tensor:
    """A linear layer or 1x1 convolution over a sequence of pixels; returns an image of `size`, (B, C, H, W)."""
    return image(linear(layer, x), size) if is_linear else conv(layer, image(x, size))


def sequence(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H W, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def image(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, H W, C) to (B, C, H, W)."""
    images = x.transpose(1, 2).unflatten(2, tuple(size))
    return (
        images if kernels.usable(x) else images.contiguous()
    )  # on CUDA this is channels-last memory, as images should be


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(head width)) v per head; (B, tokens, heads * head width) like q."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def gated(x: Tensor, *, lean: bool = False) -> Tensor:
    """a * GELU(b), where a and b are the halves of x (GEGLU, arXiv 2002.05202). `lean`: keep only x for the backward
    pass, as the fused form always does."""
    if ENABLED and geglu.applies(x):
        return geglu.geglu(x)
    a, b = x.chunk(2, -1)
    return lean_geglu.geglu(a, b) if lean else a * F.gelu(b)
