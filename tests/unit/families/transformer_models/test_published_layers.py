"""The layers of the published models, by formula, beside diffusers' own modules of their configs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

from lorasmith.adapters.layer import spec_of
from lorasmith.families.flux import source as flux_source
from lorasmith.families.published_models import published_model
from lorasmith.families.sd3 import source as sd3_source
from lorasmith.files.model import ModelLayers

FLUX: dict[str, Any] = {"guidance_embeds": True}
SD3_SIZES = {"joint_attention_dim": 4096, "pooled_projection_dim": 2048}
SD3_MEDIUM: dict[str, Any] = {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
    "qk_norm": "rms_norm",
}
SD3_LARGE: dict[str, Any] = {
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "qk_norm": "rms_norm",
}


@pytest.mark.parametrize(
    ("kind", "width", "config"),
    [("flux", 3072, FLUX), ("sd3", 1536, SD3_MEDIUM), ("sd3", 2432, SD3_LARGE)],
    ids=["Flux.1 dev", "SD3.5 medium", "SD3.5 large"],
)
def test_published_layers_are_those_of_diffusers(kind: str, width: int, config: dict[str, Any]) -> None:
    model_class: Any = FluxTransformer2DModel if kind == "flux" else SD3Transformer2DModel
    if kind == "sd3":
        config = {**SD3_SIZES, **config}
    with torch.device("meta"):
        model = model_class(**config)
    specs = [spec_of(f"transformer.{path}", module) for path, module in model.named_modules()]
    wanted = {spec.name: spec for spec in specs if spec is not None}
    published = ModelLayers.published(kind, {width})
    ours = {name: spec for name, spec in published.layers.items() if name.startswith("transformer.")}
    assert ours == wanted


@pytest.mark.parametrize(
    ("kind", "model_class", "config"),
    [("flux", FluxTransformer2DModel, FLUX), ("sd3", SD3Transformer2DModel, {**SD3_SIZES, **SD3_MEDIUM})],
)
def test_a_forecast_has_the_sizes_of_the_published_model(kind: str, model_class: Any, config: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = model_class(**config)
    published = published_model(kind)
    assert published.parameters == sum(parameter.numel() for parameter in model.parameters())
    shape_of_config = flux_source.shape_of_config if kind == "flux" else sd3_source.shape_of_config
    assert published.network == shape_of_config(model.config)
    assert {spec.component for spec in published.layers} == {"transformer"}
    assert len(published.layers) == sum(spec_of(path, module) is not None for path, module in model.named_modules())


@pytest.mark.parametrize("kind", ["flux", "sd3"])
def test_every_layer_is_found_by_each_of_its_names(kind: str) -> None:
    model = ModelLayers.published(kind)
    for layer in model.layers:
        assert model.from_kohya(model.kohya_name(layer)) == layer
        part = model.kohya_part(layer)
        assert part is None or model.kohya_parts(part.module)[layer] == part
