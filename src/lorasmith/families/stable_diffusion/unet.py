"""The UNet of Stable Diffusion 1.x, 2.x and XL (arXiv 2112.10752, 2307.01952), with diffusers' parameter names.

Reading order: `UNet.forward`, then `Resnet`, `Transformer`, `TransformerBlock`. All arithmetic is in `families/ops`.
Layers are called through their modules, and their weights are never read, so that adapters may take their place.
Nothing here waits for the device, so that a step can be captured as a CUDA graph.
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
from lorasmith.families.stable_diffusion.attention_maps import CrossAttentionMaps
from lorasmith.families.stable_diffusion.steering import Regions, Residuals
from lorasmith.families.stable_diffusion.unet_config import UNetConfig
from lorasmith.families.streaming import BlockStream

Run = Callable[..., Tensor]


class UNet(nn.Module):
    """From x_t, t and the text to the prediction.

    `checkpointing`: recompute residual and transformer blocks in the backward pass instead of storing activations.
    `stream`: holds the frozen weights of these blocks on the host; None: they are on the device.
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
        self.stream: BlockStream | None = None
        embedding_width = 4 * config.channels[0]
        order = count()

        self.conv_in = nn.Conv2d(config.in_channels, config.channels[0], 3, padding=1)
        self.time_embedding = Embedding(config.channels[0], embedding_width)
        if config.pooled:
            self.add_embedding = Embedding(config.pooled, embedding_width)

        # The way down. The channels of every skip connection are noted for the way up.
        self.down_blocks = nn.ModuleList()
        width = config.channels[0]
        skips = [width]
        for level, channels in enumerate(config.channels):
            is_last = level == len(config.channels) - 1
            inputs = [width, *[channels] * (config.layers - 1)]
            self.down_blocks.append(Level(config, level, inputs, order, downsample=not is_last))
            skips += [channels] * (config.layers if is_last else config.layers + 1)
            width = channels

        self.mid_block = Level(config, -1, [width, width], order)

        # The way up, where each residual block takes a skip connection too.
        self.up_blocks = nn.ModuleList()
        for level, channels in reversed(list(enumerate(config.channels))):
            inputs = [size + skips.pop() for size in [width, *[channels] * config.layers]]
            self.up_blocks.append(Level(config, level, inputs, order, upsample=level > 0))
            width = channels

        self.conv_norm_out = nn.GroupNorm(config.groups, width, config.eps)
        self.conv_out = nn.Conv2d(width, config.out_channels, 3, padding=1)

        name_by_order = {m.order: name for name, m in self.named_modules() if isinstance(m, TransformerBlock)}
        self.cross_attentions = tuple(f"{name_by_order[i]}.attn2" for i in range(len(name_by_order)))
        self.register_buffer("like", torch.empty(0), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the computation."""
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
        context for each cross-attention layer; `pooled` (B, width) and `time_ids` (B, 6) for SDXL; `residuals`: those
        of ControlNets and T2I-Adapters, if there are any.
        """
        x = x.to(self.dtype, memory_format=torch.channels_last) if x.is_cuda else x.to(self.dtype)
        with ops.one_refresh(self, x, changes=not self.checkpointing):
            emb = F.silu(self._embed(t, x, pooled, time_ids))
            return self._predict(x, emb, self._contexts(context), residuals or Residuals())

    def _predict(self, x: Tensor, emb: Tensor, contexts: Sequence[Tensor], residuals: Residuals) -> Tensor:
        """The prediction. `emb`: SiLU of the embedding of t."""
        run = self._runner()
        # What each residual block adds for the time, in the order in which the blocks run.
        shifts = iter(ops.project([block.time_emb_proj for block in self.residual_blocks()], emb))

        x, skips = self._down(ops.conv(self.conv_in, x), shifts, contexts, run, residuals.levels)
        if residuals.skips:
            skips = [skip + residual for skip, residual in zip(skips, residuals.skips, strict=True)]

        first, last = self.mid_block.resnets
        x = run(first, x, next(shifts))
        x = self.mid_block.attentions[0](x, contexts, run)
        x = run(last, x, next(shifts))
        if residuals.middle is not None:
            x = x + residuals.middle

        for level in self.up_blocks:
            for resnet, transformer in level.pairs():
                x = run(resnet, x, next(shifts), skips.pop())
                if transformer is not None:
                    x = transformer(x, contexts, run)
            if level.upsamplers is not None:
                # to the size of the next skip, which is odd if the latents' side is no multiple of 8
                x = level.upsamplers[0](x, skips[-1].shape[-2:])
        return ops.conv(self.conv_out, ops.gn_silu(self.conv_norm_out, x))

    def _runner(self) -> Run:
        """The function that calls a block: as it is, with weights from the host, or computed again when needed."""
        run: Run = _call if self.stream is None else self.stream
        if self.checkpointing and torch.is_grad_enabled():
            return partial(checkpoint, run, use_reentrant=False)
        return run

    def _down(
        self, x: Tensor, shifts: Iterator[Tensor], contexts: Sequence[Tensor], run: Run, residuals: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """The way down; returns x and the skips.

        `residuals`: one for each level. It is added to what leaves the level; in levels with attention that is before
        downsampling, else after it (the places of diffusers, for which T2I-Adapters were trained).
        """
        skips = [x]
        for index, level in enumerate(self.down_blocks):
            residual = residuals[index] if residuals else None
            before_downsampling = level.attentions is not None or level.downsamplers is None
            for resnet, transformer in level.pairs():
                x = run(resnet, x, next(shifts))
                if transformer is not None:
                    x = transformer(x, contexts, run)
                skips.append(x)
            if residual is not None and before_downsampling:
                x = x + residual.to(x.dtype)
                skips[-1] = x
            if level.downsamplers is not None:
                x = level.downsamplers[0](x)
                if residual is not None and not before_downsampling:
                    x = x + residual.to(x.dtype)
                skips.append(x)
        return x, skips

    def residual_blocks(self) -> list[Resnet]:
        """All residual blocks, in the order in which they run."""
        levels = [*self.down_blocks, self.mid_block, *self.up_blocks]
        return [block for level in levels for block in level.resnets]

    def _embed(self, t: Tensor, x: Tensor, pooled: Tensor | None, time_ids: Tensor | None) -> Tensor:
        """The embedding of t, and for SDXL of pooled text and sizes, (B, 4 * first width)."""
        emb = self.time_embedding(sinusoid(t.expand(len(x)), self.config.channels[0]).to(self.dtype))
        if not self.config.pooled:
            return emb
        if pooled is None or time_ids is None:
            raise ValueError("an SDXL UNet also needs the pooled text and the time ids (sizes)")
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
        self.attentions = None
        if depth:
            blocks = [Transformer(config, channels, heads, depth, order) for _ in range(transformers)]
            self.attentions = nn.ModuleList(blocks)
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

    def forward(self, x: Tensor, shift: Tensor, skip: Tensor | None = None) -> Tensor:
        """`shift`: (B, C), what is added for the time, `time_emb_proj` of its embedding. `skip`: joined with x."""
        x, h = ops.fork_gn_silu(self.norm1, x, skip)
        h = ops.conv_gn_silu(self.conv1, self.norm2, h, shift)
        if self.conv_shortcut is not None:
            x = ops.conv(self.conv_shortcut, x)
        return ops.conv_add(self.conv2, h, x)


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
        self.is_linear = config.linear_projection
        self.norm = nn.GroupNorm(config.groups, channels, 1e-6)
        self.proj_in = nn.Linear(channels, channels) if config.linear_projection else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks: Any = nn.ModuleList(
            TransformerBlock(channels, heads, config.context, next(order)) for _ in range(depth)
        )
        self.proj_out = nn.Linear(channels, channels) if config.linear_projection else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, contexts: Sequence[Tensor], run: Run) -> Tensor:
        size = x.shape[-2:]
        x, h = ops.fork_gn(self.norm, x)
        # SD 2.x and XL project with linear layers, SD 1.x with 1x1 convolutions.
        h = ops.from_image(self.proj_in, h, is_linear=self.is_linear)
        for block in self.transformer_blocks:
            h = run(block, h, contexts[block.order])
        # Back to an image, beside the identity.
        return x + ops.to_image(self.proj_out, h, size, is_linear=self.is_linear)


class Attention(nn.Module):
    """The projections of one attention layer; `to_out.0` as diffusers has it."""

    def __init__(self, channels: int, context_width: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_width, channels, bias=False)
        self.to_v = nn.Linear(context_width, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])


class TransformerBlock(nn.Module):
    """Self-attention, attention to the text, feed-forward; each on a normalised input, beside the identity.

    `order`: the position of its cross-attention among all, in the order in which they run. `lean`: whether to keep less
    for the backward pass; `recompute_feed_forward`: whether to compute the feed-forward part again there, where its
    operations are fused. `map_recorder` and `regions` are set while maps are recorded (`attention_maps.py`) or regions
    drawn (`steering.py`).
    """

    def __init__(self, channels: int, heads: int, context: int, order: int) -> None:
        super().__init__()
        self.heads, self.order = heads, order
        self.lean = False
        self.recompute_feed_forward = False
        self.map_recorder: CrossAttentionMaps | None = None
        self.regions: Regions | None = None
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, context)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """`x`: (B, pixels, C); `context`: (B, tokens, width)."""
        # Self-attention.
        self_attention = self.attn1
        x, q, k, v = ops.add_ln_project(self.norm1, [self_attention.to_q, self_attention.to_k, self_attention.to_v], x)
        branch = ops.linear(self_attention.to_out[0], ops.attention(q, k, v, self.heads))

        # Attention to the text.
        cross_attention = self.attn2
        x, q = ops.add_ln_project(self.norm2, [cross_attention.to_q], x, branch)
        k, v = ops.project([cross_attention.to_k, cross_attention.to_v], context)
        if self.map_recorder is not None:
            self.map_recorder.record(q, k, self.heads)
        attended = ops.attention(q, k, v, self.heads)
        if self.regions is not None:
            attend = partial(ops.attention, heads=self.heads)
            attended = self.regions.apply(attended, q, attend, cross_attention, self.order)
        branch = ops.linear(cross_attention.to_out[0], attended)

        if self.recompute_feed_forward and ops.can_recompute([self.ff.net[0].proj, self.ff.net[2]], x):
            return ops.recomputed(self._feed_forward, x, branch)
        return self._feed_forward(x, branch)

    def _feed_forward(self, x: Tensor, branch: Tensor) -> Tensor:
        x, gates = ops.add_ln_project(self.norm3, [self.ff.net[0].proj], x, branch)
        return x + ops.linear(self.ff.net[2], ops.gated(gates, lean=self.lean))


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
