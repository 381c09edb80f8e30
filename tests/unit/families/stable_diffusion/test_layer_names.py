"""Names of layers, held against diffusers' own converters."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch

from lorasmith.families.stable_diffusion import layer_names
from lorasmith.families.stable_diffusion.ldm_names import UNET, unet_name
from lorasmith.families.stable_diffusion.presets import PRESETS
from lorasmith.families.stable_diffusion.source import shipped_config

KINDS = ("sd1", "sd2", "sdxl")


def weighted(kind: str) -> list[Any]:
    return [spec for spec in layer_names.layers(kind) if spec.kind != "norm"]


def chosen(kind: str, preset: str) -> list[Any]:
    patterns = PRESETS[preset]
    return [s for s in weighted(kind) if any(fnmatchcase(s.name, p) for p in patterns)]


@pytest.mark.parametrize("kind", KINDS)
def test_original_unet_names_equal_diffusers_converter(kind: str) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config = layer_names.published_unet(kind)
    from lorasmith.families.stable_diffusion.unet import UNet

    with torch.device("meta"):
        ours = list(UNet(config).state_dict())
    theirs = convert_ldm_unet_checkpoint(
        {UNET + unet_name(name, config): name for name in ours}, shipped_config(kind, "unet")
    )
    assert theirs == {name: name for name in ours}


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_survives_kohya_and_back(kind: str) -> None:
    known = [spec.name for spec in layer_names.layers(kind)]
    flat = [layer_names.kohya(kind, name) for name in known]
    assert len(set(flat)) == len(flat)
    assert [layer_names.from_kohya(kind, name, known) for name in flat] == known


def test_sdxl_names_are_those_that_diffusers_reads() -> None:
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.lora_conversion_utils import (
        _convert_non_diffusers_lora_to_diffusers,
        _maybe_map_sgm_blocks_to_diffusers,
    )

    with torch.device("meta"):
        config: Any = UNet2DConditionModel.from_config(shipped_config("sdxl", "unet")).config
    specs = [s for s in weighted("sdxl") if s.component == "unet"]
    tensors: dict[str, Any] = {}
    for i, spec in enumerate(specs):
        flat = layer_names.kohya("sdxl", spec.name)
        tensors[f"{flat}.lora_down.weight"] = torch.tensor(float(i))
        tensors[f"{flat}.lora_up.weight"] = torch.tensor(float(i))
    tensors = _maybe_map_sgm_blocks_to_diffusers(tensors, config)
    found, _ = _convert_non_diffusers_lora_to_diffusers(tensors)
    places = {int(value): key for key, value in found.items()}
    for i, spec in enumerate(specs):
        # diffusers first renames to its old processor words and turns these back when it loads
        words = places[i].replace(".processor", "").replace("to_out_lora", "to_out.0").replace("_lora.", ".")
        assert (
            words.removesuffix(".weight").removesuffix(".up").removesuffix(".lora_B").removesuffix(".lora") == spec.name
        )


def test_published_spellings() -> None:
    """Names that files on the web carry (facts of the format, not of any code)."""
    assert layer_names.kohya("sd1", "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0") == (
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
    )
    assert layer_names.kohya("sd1", "te.text_model.encoder.layers.0.self_attn.q_proj") == (
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    )
    assert layer_names.kohya("sdxl", "unet.down_blocks.1.attentions.0.proj_in") == "lora_unet_input_blocks_4_1_proj_in"
    assert layer_names.kohya("sdxl", "unet.up_blocks.0.upsamplers.0.conv") == "lora_unet_output_blocks_2_2_conv"
    assert layer_names.kohya("sdxl", "te2.text_projection") == "lora_te2_text_projection"


def test_other_spellings_are_understood() -> None:
    sd1, sdxl = ([s.name for s in layer_names.layers(k)] for k in ("sd1", "sdxl"))
    q = "text_model_encoder_layers_3_self_attn_q_proj"
    layer = "te.text_model.encoder.layers.3.self_attn.q_proj"
    for flat in (f"lora_te_{q}", f"lora_te1_{q}", "lora_te_encoder_layers_3_self_attn_q_proj"):
        assert layer_names.from_kohya("sd1", flat, sd1) == layer
    proj = "unet.down_blocks.1.attentions.0.proj_in"
    assert layer_names.from_kohya("sdxl", "lora_unet_down_blocks_1_attentions_0_proj_in", sdxl) == proj
    assert layer_names.from_kohya("sd1", "lora_unet_input_blocks_4_1_proj_in", sd1) == proj
    assert layer_names.from_kohya("sd1", "lora_unet_nothing", sd1) is None
    assert layer_names.from_kohya("sdxl", f"lora_te_{q}", sdxl) is None


@pytest.mark.parametrize("kind", KINDS)
def test_peft_names_are_inverse(kind: str) -> None:
    for spec in layer_names.layers(kind):
        assert layer_names.from_peft(kind, layer_names.peft_name(spec.name)) == spec.name
    assert layer_names.from_peft(kind, "text_encoder.encoder.layers.0.mlp.fc1") == (
        f"{'te1' if kind == 'sdxl' else 'te'}.text_model.encoder.layers.0.mlp.fc1"
    )
    assert layer_names.from_peft(kind, "vae.encoder") is None


@pytest.mark.parametrize("kind", KINDS)
def test_presets_hold_what_peers_train(kind: str) -> None:
    """LyCORIS' selection by class is the reference: attention, all of the transformers, and these with the residual
    blocks."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        model: Any = UNet2DConditionModel.from_config(shipped_config(kind, "unet"))
    inside: dict[str, set[str]] = {"attention": set(), "attention-mlp": set(), "full": set()}
    classes = {
        "attention": {"Attention"},
        "attention-mlp": {"Transformer2DModel"},
        "full": {"Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"},
    }
    for name, module in model.named_modules():
        for preset, owners in classes.items():
            if type(module).__name__ in owners:
                inside[preset] |= {
                    f"unet.{name}.{path}"
                    for path, layer in module.named_modules()
                    if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
                }
    for preset, expected in inside.items():
        assert {s.name for s in chosen(kind, preset) if s.component == "unet"} == expected


@pytest.mark.parametrize(("kind", "linears", "small", "large"), [("sd1", 160, 46, 52), ("sd2", 192, 14, 52)])
def test_inventory(kind: str, linears: int, small: int, large: int) -> None:
    """Counts of real models, as other tools report them."""
    specs = [s for s in weighted(kind) if s.component == "unet"]
    assert sum(s.kind == "linear" and ".attentions." in s.name for s in specs) == linears
    assert sum(s.kind == "conv" and s.shape[2:] == (1, 1) for s in specs) == small
    assert sum(s.kind == "conv" and s.shape[2:] == (3, 3) for s in specs) == large


@pytest.mark.parametrize("kind", KINDS)
def test_text_layers_equal_transformers(kind: str) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from lorasmith.families.stable_diffusion.source import PARTS
    from lorasmith.families.stable_diffusion.text import classic_name

    for part in (p for p in PARTS[kind] if p.startswith("te")):
        config = shipped_config(kind, part)
        with torch.device("meta"):
            cls = CLIPTextModelWithProjection if part == "te2" else CLIPTextModel
            model = cls(CLIPTextConfig.from_dict(config))
        expected = {
            f"{part}.{classic_name(name)}": tuple(layer.weight.shape)
            for name, layer in model.named_modules()
            if isinstance(layer, torch.nn.Linear | torch.nn.LayerNorm)
        }
        assert {s.name: s.shape for s in layer_names.text_layers(part, config)} == expected
