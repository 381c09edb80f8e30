"""The layers of published transformer models, by their sizes alone, so that files can be read without a base."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from lorasmith.adapters.base import LayerSpec
from lorasmith.families.stable_diffusion.layer_names import text_layers
from lorasmith.families.transformer_models.source import DENOISER, T5

CLIP_L: Mapping[str, int] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "projection_dim": 768
}  # fmt: skip
CLIP_G: Mapping[str, int] = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "projection_dim": 1280
}  # fmt: skip
T5_WIDTH, T5_INNER = 4096, 10240
T5_XXL: Mapping[str, int] = {
    "d_model": T5_WIDTH, "d_kv": 64, "d_ff": T5_INNER, "num_layers": 24, "num_heads": 64
}  # fmt: skip


def linear(path: str, outputs: int, inputs: int) -> LayerSpec:
    """A linear layer of the transformer."""
    return LayerSpec(f"{DENOISER}.{path}", "linear", (outputs, inputs), bias=True)


def attention(prefix: str, layers: tuple[str, ...], width: int) -> Iterator[LayerSpec]:
    """Projections of an attention, of the model's width."""
    for layer in layers:
        yield linear(f"{prefix}.{layer}", width, width)


def feed_forward(prefix: str, width: int) -> Iterator[LayerSpec]:
    """The two linear layers of a feed-forward network, four times as wide inside."""
    yield linear(f"{prefix}.net.0.proj", 4 * width, width)
    yield linear(f"{prefix}.net.2", width, 4 * width)


def text_time_embedders(width: int, pooled: int, guidance: bool) -> Iterator[LayerSpec]:
    """The embeddings of time, pooled text and guidance."""
    inputs = {"timestep_embedder": 256, "text_embedder": pooled}
    if guidance:
        inputs["guidance_embedder"] = 256
    for name, count in inputs.items():
        yield linear(f"time_text_embed.{name}.linear_1", width, count)
        yield linear(f"time_text_embed.{name}.linear_2", width, width)


def t5_layers(config: Mapping[str, int] = T5_XXL) -> Iterator[LayerSpec]:
    """The layers of T5's encoder, which other trainers can train. `config`: transformers' config."""
    width, inner = config["d_model"], config["d_ff"]
    projected = config["num_heads"] * config["d_kv"]
    for block in range(config["num_layers"]):
        prefix = f"{T5}.encoder.block.{block}.layer"
        for layer in ("q", "k", "v"):
            yield LayerSpec(f"{prefix}.0.SelfAttention.{layer}", "linear", (projected, width))
        yield LayerSpec(f"{prefix}.0.SelfAttention.o", "linear", (width, projected))
        for layer in ("wi_0", "wi_1"):
            yield LayerSpec(f"{prefix}.1.DenseReluDense.{layer}", "linear", (inner, width))
        yield LayerSpec(f"{prefix}.1.DenseReluDense.wo", "linear", (width, inner))


def clip_layers(component: str, config: Mapping[str, int], *, projected: bool) -> Iterator[LayerSpec]:
    """The layers of a CLIP text encoder."""
    projection = f"{component}.text_projection"
    yield from (spec for spec in text_layers(component, config) if spec.name != projection)
    if projected:
        yield LayerSpec(projection, "linear", (config["projection_dim"], config["hidden_size"]))


def of_denoiser(specs: Iterable[LayerSpec]) -> tuple[LayerSpec, ...]:
    """The layers of the transformer, which a first run trains alone."""
    return tuple(spec for spec in specs if spec.component == DENOISER)
