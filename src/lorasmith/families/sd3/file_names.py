"""The names of SD3's layers in LoRA files, and the layers of SD3 medium, SD3.5 medium and large."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import ClassVar

from lorasmith.adapters.base import LayerSpec
from lorasmith.families.file_names import FileNames, register
from lorasmith.families.sd3.sai_names import sai_place
from lorasmith.families.source import Source
from lorasmith.families.transformer_models.file_names import TransformerFileNames, TransformerNames
from lorasmith.families.transformer_models.published import (
    CLIP_G,
    CLIP_L,
    attention,
    clip_layers,
    feed_forward,
    linear,
    t5_layers,
    text_time_embedders,
)
from lorasmith.families.transformer_models.source import DENOISER

LATENT, TEXT, POOLED, PATCH = 16, 4096, 2048, 2
T5_NAMES = ("lora_te3_",)
_IMAGE = ("to_q", "to_k", "to_v", "to_out.0")
_CONTEXT = ("add_q_proj", "add_k_proj", "add_v_proj")


@dataclass(frozen=True)
class Size:
    """A published transformer. `dual`: how many blocks have a second attention of the image."""

    width: int
    blocks: int
    dual: int = 0


MEDIUM = Size(1536, 24, dual=13)
"""SD3.5 medium; SD3 medium has the same layers without the second attentions."""
LARGE = Size(2432, 38)
"""SD3.5 large and large turbo."""


@lru_cache
def sd3_layers(size: Size) -> tuple[LayerSpec, ...]:
    """Every layer that may carry an adapter."""
    te1 = clip_layers("te1", CLIP_L, projected=True)
    te2 = clip_layers("te2", CLIP_G, projected=True)
    return (*_transformer(size), *te1, *te2, *t5_layers())


def _transformer(size: Size) -> Iterator[LayerSpec]:
    width = size.width
    stride = (PATCH, PATCH)
    yield LayerSpec(f"{DENOISER}.pos_embed.proj", "conv", (width, LATENT, *stride), stride=stride, bias=True)
    yield from text_time_embedders(width, POOLED, guidance=False)
    yield linear("context_embedder", width, TEXT)
    for i in range(size.blocks):
        block, is_last = f"transformer_blocks.{i}", i == size.blocks - 1
        yield linear(f"{block}.norm1.linear", (9 if i < size.dual else 6) * width, width)
        yield linear(f"{block}.norm1_context.linear", (2 if is_last else 6) * width, width)
        yield from attention(f"{block}.attn", _IMAGE + _CONTEXT, width)
        if i < size.dual:
            yield from attention(f"{block}.attn2", _IMAGE, width)
        yield from feed_forward(f"{block}.ff", width)
        if not is_last:
            yield linear(f"{block}.attn.to_add_out", width, width)
            yield from feed_forward(f"{block}.ff_context", width)
    yield linear("norm_out.linear", 2 * width, width)
    yield linear("proj_out", PATCH * PATCH * LATENT, width)


class SD3FileNames(TransformerFileNames):
    kinds: ClassVar[tuple[str, ...]] = ("sd3",)

    def published_layers(self, kind: str, widths: Collection[int]) -> tuple[LayerSpec, ...]:
        return sd3_layers(LARGE if LARGE.width in widths else MEDIUM)

    def variant(self, source: Source) -> str:
        config = source.config(DENOISER)
        if int(config.get("num_layers", 0)) >= LARGE.blocks:
            return "5-large"
        return "5-medium" if config.get("dual_attention_layers") else "medium"

    def names(self, kind: str, layers: Collection[str], source: Source | None) -> FileNames:
        blocks = 1 + max((_block_of(layer) for layer in layers), default=0)
        return TransformerNames(layers, partial(sai_place, blocks=blocks), T5_NAMES, "text_encoder_3")


def _block_of(layer: str) -> int:
    """The number of the block that a layer is in; 0 for layers in none."""
    parts = layer.split(".")
    return int(parts[2]) if parts[1] == "transformer_blocks" else 0


register(SD3FileNames())
