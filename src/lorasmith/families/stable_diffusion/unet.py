"""The UNet of Stable Diffusion 1.x, 2.x and XL (arXiv 2112.10752, 2307.01952), with diffusers' parameter names.

Reading order: `UNet.forward`, then `Resnet`, `Transformer`, `TransformerBlock`. Everything that computes is in ops.py.
Layers are called through their modules, never read, so that adapters may take their place. Nothing here waits for the
device, so that a step can be captured as a CUDA graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lorasmith.families import ops
from lorasmith.families.stable_diffusion.attention_maps import Maps
from lorasmith.families.stable_diffusion.steering import Regions, Residuals
from lorasmith.families.stable_diffusion.unet_config import UNetConfig

Run = Callable[..., Tensor]


class UNet(nn.Module):
    """x_t, t and the text to the prediction.

    `checkpointing`: recompute residual and transformer blocks in the backward pass instead of keeping their insides.
    `cross_attentions`: names of the cross-attention layers in the order in which they run; a context of shape (B,
    layers, tokens, width) has one entry for each of them (P+, arXiv 2303.09522).
    """

    like: Tensor
    down_blocks: Any
    up_blocks: Any
    mid_block: Any

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        c = config
        emb = 4 * c.channels[0]
        order = count()
        self.conv_in = nn.Conv2d(c.in_channels, c.channels[0], 3, padding=1)
        self.time_embedding = Embedding(c.channels[0], emb)
        if c.pooled:
            self.add_embedding = Embedding(c.pooled, emb)
        self.down_blocks = nn.ModuleList()
        skips, width = [c.channels[0]], c.channels[0]
        for level, channels in enumerate(c.channels):
            last = level == len(c.channels) - 1
            inputs = [width, *[channels] * (c.layers - 1)]
            self.down_blocks.append(Level(c, level, inputs, order, downsample=not last))
            skips += [channels] * (c.layers if last else c.layers + 1)
            width = channels
        self.mid_block = Level(c, -1, [width, width], order)
        self.up_blocks = nn.ModuleList()
        for level, channels in reversed(list(enumerate(c.channels))):
            inputs = [size + skips.pop() for size in [width, *[channels] * c.layers]]
            self.up_blocks.append(Level(c, level, inputs, order, upsample=level > 0))
            width = channels
        self.conv_norm_out = nn.GroupNorm(c.groups, width, c.eps)
        self.conv_out = nn.Conv2d(width, c.out_channels, 3, padding=1)
        crossed = {m.order: name for name, m in self.named_modules() if isinstance(m, TransformerBlock)}
        self.cross_attentions = tuple(f"{crossed[i]}.attn2" for i in range(len(crossed)))
        self.register_buffer("like", torch.empty(0), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that it computes in."""
        return self.like.dtype

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        pooled: Tensor | None = None,
        time_ids: Tensor | None = None,
        residuals: Residuals | None = None,
    ) -> Tensor:
        """The prediction, (B, C, H, W) in the model's dtype.

        `x`: (B, C, H, W); `t`: (B,) or scalar; `context`: (B, tokens, width), or (B, layers, tokens, width) with one
        context for each cross-attention layer; `pooled` (B, width) and `time_ids` (B, 6) for SDXL; `residuals`: what is
        added inside, if anything.
        """
        run = self._recompute if self.checkpointing and torch.is_grad_enabled() else _call
        emb = F.silu(self._embed(t, x, pooled, time_ids))
        contexts = self._contexts(context)
        x = x.to(self.dtype, memory_format=torch.channels_last) if x.is_cuda else x.to(self.dtype)
        added = residuals or Residuals()
        x, skips = self._down(ops.conv(self.conv_in, x), emb, contexts, run, added.levels)
        if added.skips:
            skips = [skip + more for skip, more in zip(skips, added.skips, strict=True)]
        first, last = self.mid_block.resnets
        x = run(first, x, emb)
        x = self.mid_block.attentions[0](x, contexts, run)
        x = run(last, x, emb)
        x = x if added.middle is None else x + added.middle
        for level in self.up_blocks:
            for resnet, transformer in level.pairs():
                x = run(resnet, torch.cat([x, skips.pop()], 1), emb)
                x = transformer(x, contexts, run) if transformer is not None else x
            if level.upsamplers is not None:
                x = level.upsamplers[0](x, skips[-1].shape[-2:])
        return ops.conv(self.conv_out, ops.gn_silu(self.conv_norm_out, x))

    def _down(
        self, x: Tensor, emb: Tensor, contexts: Sequence[Tensor], run: Run, added: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """The way down and its skips. `added`: one a level, on what leaves it; where it has attention, on what enters
        its downsampling (diffusers' places, for which T2I-Adapters were trained)."""
        skips = [x]
        for index, level in enumerate(self.down_blocks):
            own = added[index] if added else None
            for resnet, transformer in level.pairs():
                x = run(resnet, x, emb)
                x = transformer(x, contexts, run) if transformer is not None else x
                skips.append(x)
            early = level.attentions is not None or level.downsamplers is None
            if own is not None and early:
                skips[-1] = x = x + own
            if level.downsamplers is not None:
                x = level.downsamplers[0](x)
                skips.append(x if own is None or early else x + own)
                x = skips[-1]
        return x, skips

    def _embed(self, t: Tensor, x: Tensor, pooled: Tensor | None, time_ids: Tensor | None) -> Tensor:
        """t, and for SDXL pooled text and sizes, as one vector (B, 4 * first width)."""
        emb = self.time_embedding(sinusoid(t.expand(len(x)), self.config.channels[0]).to(self.dtype))
        if not self.config.pooled:
            return emb
        if pooled is None or time_ids is None:
            raise ValueError("this UNet is SDXL's: it needs the pooled text and the time ids (sizes) too")
        sizes = sinusoid(time_ids.flatten(), self.config.size_embed).reshape(len(x), -1)
        return emb + self.add_embedding(torch.cat([pooled.to(self.dtype), sizes.to(self.dtype)], -1))

    def _contexts(self, context: Tensor) -> Sequence[Tensor]:
        context = context.to(self.dtype)
        layers = len(self.cross_attentions)
        if context.dim() == 3:
            return [context] * layers
        if context.shape[1] != layers:
            raise ValueError(f"context has {context.shape[1]} entries, this UNet has {layers} cross-attention layers")
        return context.unbind(1)

    def _recompute(self, module: nn.Module, *inputs: Tensor) -> Tensor:
        return checkpoint(module, *inputs, use_reentrant=False)


def _call(module: nn.Module, *inputs: Tensor) -> Tensor:
    return module(*inputs)


def sinusoid(values: Tensor, width: int) -> Tensor:
    """cos and sin of `values` (N,) at width / 2 frequencies from 1 down to 1/10000: (N, width) float32."""
    half = width // 2
    powers = torch.arange(half, dtype=torch.float32, device=values.device) / half
    angles = values.float()[:, None] * torch.exp(-math.log(10000) * powers)
    return torch.cat([angles.cos(), angles.sin()], -1)


class Embedding(nn.Module):
    """Two linear layers with SiLU between."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, out)
        self.linear_2 = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(self.linear_2, F.silu(ops.linear(self.linear_1, x)))


class Level(nn.Module):
    """The blocks of one resolution on the way down, in the middle (`level` -1: one transformer) or on the way up.

    `attentions`, `downsamplers` and `upsamplers` are None where there are none.
    """

    attentions: Any
    downsamplers: Any
    upsamplers: Any

    def __init__(
        self,
        config: UNetConfig,
        level: int,
        inputs: Sequence[int],
        order: Iterator[int],
        *,
        downsample: bool = False,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        channels, heads = config.channels[level], config.heads[level]
        depth = config.mid_depth if level < 0 else config.depths[level]
        transformers = len(inputs) - 1 if level < 0 else len(inputs)
        self.resnets = nn.ModuleList(Resnet(config, width, channels) for width in inputs)
        self.attentions = (
            nn.ModuleList(Transformer(config, channels, heads, depth, order) for _ in range(transformers))
            if depth
            else None
        )
        self.downsamplers = nn.ModuleList([Downsample(channels)]) if downsample else None
        self.upsamplers = nn.ModuleList([Upsample(channels)]) if upsample else None

    def pairs(self) -> Iterator[tuple[nn.Module, nn.Module | None]]:
        """Each residual block with the transformer that follows it, if any."""
        return zip(self.resnets, self.attentions or [None] * len(self.resnets), strict=True)


class Resnet(nn.Module):
    """Two convolutions around the time embedding, beside a shortcut."""

    def __init__(self, config: UNetConfig, width: int, out: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.groups, width, config.eps)
        self.conv1 = nn.Conv2d(width, out, 3, padding=1)
        self.time_emb_proj = nn.Linear(4 * config.channels[0], out)
        self.norm2 = nn.GroupNorm(config.groups, out, config.eps)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(width, out, 1) if width != out else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """`emb`: SiLU of the embedding of t."""
        h = ops.conv(self.conv1, ops.gn_silu(self.norm1, x))
        h = h + ops.linear(self.time_emb_proj, emb)[:, :, None, None]
        h = ops.conv(self.conv2, ops.gn_silu(self.norm2, h))
        return h + (x if self.conv_shortcut is None else ops.conv(self.conv_shortcut, x))


class Downsample(nn.Module):
    """Half the resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return ops.conv(self.conv, x)


class Upsample(nn.Module):
    """To the size of the level above (twice as large, or one less when that one is odd)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return ops.conv(self.conv, F.interpolate(x, size=tuple(size), mode="nearest"))


class Transformer(nn.Module):
    """Transformer blocks over the pixels, between two projections, beside the identity."""

    def __init__(self, config: UNetConfig, channels: int, heads: int, depth: int, order: Iterator[int]) -> None:
        super().__init__()
        self.flat = config.linear_projection
        self.norm = nn.GroupNorm(config.groups, channels, 1e-6)
        self.proj_in = nn.Linear(channels, channels) if self.flat else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks: Any = nn.ModuleList(
            TransformerBlock(channels, heads, config.context, next(order)) for _ in range(depth)
        )
        self.proj_out = nn.Linear(channels, channels) if self.flat else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, contexts: Sequence[Tensor], run: Run) -> Tensor:
        size = x.shape[-2:]
        h = ops.gn(self.norm, x)
        h = ops.linear(self.proj_in, _sequence(h)) if self.flat else _sequence(ops.conv(self.proj_in, h))
        for block in self.transformer_blocks:
            h = run(block, h, contexts[block.order])
        if self.flat:
            return x + _image(ops.linear(self.proj_out, h), size)
        return x + ops.conv(self.proj_out, _image(h, size))


def _sequence(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H W, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _image(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, H W, C) to (B, C, H, W)."""
    image = x.transpose(1, 2).unflatten(2, tuple(size))
    return image if x.is_cuda else image.contiguous()  # on CUDA, images are in channels-last memory as it is


class Attention(nn.Module):
    """The projections of one attention layer; `to_out.0` as diffusers has it."""

    def __init__(self, channels: int, context: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context, channels, bias=False)
        self.to_v = nn.Linear(context, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])


class TransformerBlock(nn.Module):
    """Self-attention, attention to the text, feed-forward; each on a normalised input, beside the identity.

    `order`: the place of its cross-attention among all, in the order in which they run.
    """

    def __init__(self, channels: int, heads: int, context: int, order: int) -> None:
        super().__init__()
        self.heads, self.order = heads, order
        self.watch: Maps | None = None
        self.regions: Regions | None = None
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, context)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """`x`: (B, pixels, C); `context`: (B, tokens, width)."""
        q, k, v = ops.ln_qkv(self.norm1, self.attn1, x)
        x = x + ops.linear(self.attn1.to_out[0], ops.attention(q, k, v, self.heads))
        q, k, v = ops.ln_qkv(self.norm2, self.attn2, x, context)
        if self.watch is not None:
            self.watch.see(q, k, self.heads)
        seen = ops.attention(q, k, v, self.heads)
        if self.regions is not None:
            seen = self.regions.rewrite(seen, q, partial(ops.attention, heads=self.heads), self.attn2, self.order)
        x = x + ops.linear(self.attn2.to_out[0], seen)
        return x + ops.linear(self.ff.net[2], ops.ln_geglu(self.norm3, self.ff.net[0].proj, x))


class FeedForward(nn.Module):
    """`net.0.proj` and `net.2` as diffusers has them (`net.1` is its dropout, which is never used)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = 4 * channels
        self.net: Any = nn.ModuleList([_Gate(channels, inner), nn.Identity(), nn.Linear(inner, channels)])


class _Gate(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)
