"""The names of Flux's layers in LoRA files, and the layers of Flux.1 dev and schnell."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import ClassVar

from lorasmith.adapters.base import LayerSpec
from lorasmith.families.file_names import FileNames, register
from lorasmith.families.flux.bfl_names import bfl_place
from lorasmith.families.source import Source
from lorasmith.families.transformer_models.file_names import TransformerFileNames, TransformerNames
from lorasmith.families.transformer_models.published import (
    CLIP_L,
    attention,
    clip_layers,
    feed_forward,
    linear,
    t5_layers,
    text_time_embedders,
)
from lorasmith.families.transformer_models.source import DENOISER

WIDTH, DOUBLE_BLOCKS, SINGLE_BLOCKS = 3072, 19, 38
LATENT, TEXT, POOLED = 64, 4096, 768
T5_NAMES = ("lora_te3_", "lora_te2_")
"""sd-scripts' and OneTrainer's prefixes of T5's layers."""
_IMAGE = ("to_q", "to_k", "to_v", "to_out.0")
_TEXT = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


@lru_cache
def flux_layers() -> tuple[LayerSpec, ...]:
    """Every layer of Flux.1 dev that may carry an adapter; schnell lacks the embedding of the guidance."""
    return (*_transformer(), *clip_layers("te1", CLIP_L, projected=False), *t5_layers())


def _transformer() -> Iterator[LayerSpec]:
    yield from text_time_embedders(WIDTH, POOLED, guidance=True)
    yield linear("context_embedder", WIDTH, TEXT)
    yield linear("x_embedder", WIDTH, LATENT)
    for i in range(DOUBLE_BLOCKS):
        block = f"transformer_blocks.{i}"
        yield linear(f"{block}.norm1.linear", 6 * WIDTH, WIDTH)
        yield linear(f"{block}.norm1_context.linear", 6 * WIDTH, WIDTH)
        yield from attention(f"{block}.attn", _IMAGE + _TEXT, WIDTH)
        yield from feed_forward(f"{block}.ff", WIDTH)
        yield from feed_forward(f"{block}.ff_context", WIDTH)
    for i in range(SINGLE_BLOCKS):
        block = f"single_transformer_blocks.{i}"
        yield linear(f"{block}.norm.linear", 3 * WIDTH, WIDTH)
        yield linear(f"{block}.proj_mlp", 4 * WIDTH, WIDTH)
        yield linear(f"{block}.proj_out", WIDTH, 5 * WIDTH)
        yield from attention(f"{block}.attn", _IMAGE[:3], WIDTH)
    yield linear("norm_out.linear", 2 * WIDTH, WIDTH)
    yield linear("proj_out", LATENT, WIDTH)


class FluxFileNames(TransformerFileNames):
    kinds: ClassVar[tuple[str, ...]] = ("flux",)

    def published_layers(self, kind: str, widths: Collection[int]) -> tuple[LayerSpec, ...]:
        return flux_layers()

    def variant(self, source: Source) -> str:
        return "dev" if source.config(DENOISER).get("guidance_embeds") else "schnell"

    def names(self, kind: str, layers: Collection[str], source: Source | None) -> FileNames:
        return TransformerNames(layers, bfl_place, T5_NAMES, "text_encoder_2")


register(FluxFileNames())
