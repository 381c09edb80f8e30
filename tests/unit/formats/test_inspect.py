"""What `inspect` says, against files whose fate in each reader was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.files.lora import read as read_lora
from lorasmith.files.model import ModelLayers
from lorasmith.formats.inspect import inspect
from lorasmith.formats.read import load
from lorasmith.formats.survey import Survey

K = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
O = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0"  # noqa: E741
C = "lora_unet_down_blocks_0_resnets_0_conv1"
ATTENTION = "lora_te_text_model_encoder_layers_0_self_attn_"
READERS = ("A1111", "Forge", "ComfyUI", "InvokeAI", "diffusers")


def lora(name: str, width: int = 768, out: int = 320, rank: int = 4, alpha: float | None = 4.0) -> dict[str, Tensor]:
    found = {f"{name}.lora_down.weight": torch.ones(rank, width), f"{name}.lora_up.weight": torch.ones(out, rank)}
    return found if alpha is None else found | {f"{name}.alpha": torch.tensor(alpha)}


def words(name: str, **tensors: Tensor) -> dict[str, Tensor]:
    return {f"{name}.{word}": tensor for word, tensor in tensors.items()}


def loads(tmp_path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """The answer for each reader, in their order: y, p(artly), w(rong), n."""
    path = tmp_path / "x.safetensors"
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path, metadata)
    found = inspect(path)["readers"]
    return "".join(found[reader]["loads"][0] for reader in READERS)


def norms(name: str) -> dict[str, Tensor]:
    return words(name, w_norm=torch.zeros(768), b_norm=torch.zeros(768))


TIME = "lora_unet_down_blocks_0_resnets_0_time_emb_proj"
LOHA = {"hada_w1_a": torch.ones(320, 2), "hada_w1_b": torch.ones(2, 768)}
LOHA |= {"hada_w2_a": torch.ones(320, 2), "hada_w2_b": torch.ones(2, 768)}
LOKR = {"lokr_w1": torch.ones(4, 4), "lokr_w2_a": torch.ones(80, 2), "lokr_w2_b": torch.ones(2, 192)}
LOKR_WHOLE = {"lokr_w1": torch.ones(4, 4), "lokr_w2": torch.ones(80, 192)}
LOKR_TUCKER = LOKR | {"lokr_w2_a": torch.ones(2, 80), "lokr_t2": torch.ones(2, 2, 3, 3)}
TUCKER = {
    f"{C}.lora_down.weight": torch.ones(4, 320, 1, 1),
    f"{C}.lora_mid.weight": torch.ones(4, 4, 3, 3),
    f"{C}.lora_up.weight": torch.ones(320, 4, 1, 1),
    f"{C}.alpha": torch.tensor(4.0),
}
FATES: dict[str, tuple[dict[str, Tensor], str]] = {
    "lora": (lora(K), "yyyyy"),
    "alphas that differ": (lora(K) | lora(O, 320, alpha=2.0), "yyyyw"),
    "some without alpha": (lora(K) | lora(O, 320, rank=2, alpha=None), "yyyyw"),
    "some without alpha, which is the rank": (lora(K) | lora(O, 320, alpha=None), "yyyyy"),
    "no alpha": (lora(K, alpha=None) | lora(O, 320, alpha=None), "yyyyy"),
    "other ranks": (lora(K) | lora(O, 320, rank=2), "yyyyy"),
    "tucker": (lora(K) | TUCKER, "yyyyn"),
    "dora on inputs": (lora(K) | words(K, dora_scale=torch.ones(1, 768)), "yyyyw"),
    "dora on outputs": (lora(K) | words(K, dora_scale=torch.ones(320, 1)), "wwwww"),
    "loha": (words(K, **LOHA), "yyyyn"),
    "loha with dora": (words(K, **LOHA, dora_scale=torch.ones(1, 768)), "yyynn"),
    "lokr": (words(K, **LOKR) | lora(O, 320), "yyynn"),
    "lokr of whole factors": (words(K, **LOKR_WHOLE) | words(O, **LOKR), "yyyyn"),
    "lokr alone": (words(K, **LOKR), "yyynn"),
    "lokr tucker": (words(C, **LOKR_TUCKER) | lora(K), "ynpyn"),
    "oft": (words(K, oft_blocks=torch.zeros(10, 32, 32), alpha=torch.tensor(0.0)), "ynynn"),
    "oft bounded": (words(K, oft_blocks=torch.zeros(10, 32, 32), alpha=torch.tensor(0.1)), "ynwnn"),
    "boft without alpha": (words(K, oft_blocks=torch.zeros(4, 10, 32, 32)), "ynnnn"),
    "ia3": (words(K, weight=torch.zeros(320), on_input=torch.tensor(0.0)), "ynnnn"),
    "ia3 beside lora": (words(O, weight=torch.zeros(320), on_input=torch.tensor(0.0)) | lora(K), "yppyn"),
    "ia3 of text": (words(f"{ATTENTION}q_proj", weight=torch.zeros(768), on_input=torch.tensor(0.0)), "ynnyn"),
    "full": (words(K, diff=torch.zeros(320, 768)), "yyyyn"),
    "norm": (words(f"{C[:-5]}norm1", w_norm=torch.zeros(320), b_norm=torch.zeros(320)) | lora(K), "yyyyn"),
    "unknown": (words(K, q_layer=torch.zeros(3)) | lora(K), "nnnnn"),
    "bundled": (lora(K) | {"bundle_emb.a.string_to_param.*": torch.ones(1, 768)}, "ypppn"),
    "text without out": (lora(f"{ATTENTION}q_proj", 768, 768), "yyyyn"),
    "text without text_model": (lora("lora_te_encoder_layers_0_mlp_fc1", 768, 3072) | lora(K), "ppppy"),
    "peft": ({"unet.mid_block.attentions.0.proj_in.lora_A.weight": torch.ones(2, 8),
              "unet.mid_block.attentions.0.proj_in.lora_B.weight": torch.ones(8, 2)}, "nyyny"),
    "peft attention": ({f"unet.mid_block.attentions.0.attn2.to_k.lora_{x}.weight": torch.ones(8, 8) for x in "AB"},
                       "nnnny"),
    "convolutions only": (lora(C), "yyyny"),
    "convolutions with their own alpha": (lora(K) | lora(O, 320) | lora(C, 320, alpha=2.0), "yyyyy"),
    "text with its own alpha": (lora(f"{ATTENTION}q_proj", 768, 768) | lora(f"{ATTENTION}out_proj", 768, 768) |
                                lora("lora_te_text_model_encoder_layers_0_mlp_fc1", 768, 3072, alpha=2.0), "yyyyw"),
    "time embedding first": (lora(TIME, 1280) | lora(K.replace("down", "up")), "yyyny"),
    "time embedding later": (lora(K) | lora(TIME.replace("down", "up"), 1280), "yyyyy"),
    "text mlp": (lora("lora_te_text_model_encoder_layers_0_mlp_fc1", 768, 3072), "yyyny"),
    "te1 of sd1": (lora(f"{ATTENTION.replace('te_', 'te1_')}out_proj", 768, 768), "yyyny"),
    "text mlp in peft": ({"text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": torch.ones(2, 768),
                          "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_B.weight": torch.ones(8, 2)}, "nyynn"),
    "norms of text": (norms("lora_te_text_model_encoder_layers_0_layer_norm1"), "ynnnn"),
    "last norm of text": (norms("lora_te_text_model_final_layer_norm"), "nnnnn"),
    "norms of text beside lora": (norms("lora_te_text_model_encoder_layers_0_layer_norm1") | lora(K), "yppyn"),
    "norm of biases": (words(f"{C[:-5]}norm1", b_norm=torch.zeros(320)) | lora(K), "nppnn"),
    "lone alpha": (lora(K) | {f"{O}.alpha": torch.tensor(4.0)}, "nyynn"),
    "scalar": (lora(K) | {f"{K}.scalar": torch.tensor(0.5)}, "wwwwn"),
    "scalar of one": (lora(K) | {f"{K}.scalar": torch.tensor(1.0)}, "yyyyy"),
}  # fmt: skip


@pytest.mark.parametrize("name", FATES)
def test_fates(name: str, tmp_path: Path) -> None:
    tensors, expected = FATES[name]
    assert loads(tmp_path, tensors) == expected


def test_answers(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = lora(K, rank=4, alpha=2.0) | lora(f"{ATTENTION}out_proj", 768, 768, rank=2, alpha=2.0)
    metadata = {
        "modelspec.trigger_phrase": "garp, sea",
        "ss_tag_frequency": json.dumps({"1_a": {"garp": 3, "hat": 1}, "2_b": {"garp": 2}}),
        "ss_learning_rate": "0.0001",
        "ss_vae_name": "None",
        "ss_sd_model_name": "base.safetensors",
        "lorasmith.config": "base = 'x'",
        "sshs_model_hash": "abc",
    }
    save_file(tensors, path, metadata)
    found: dict[str, Any] = inspect(path)
    assert json.loads(json.dumps(found)) == found  # plain data
    assert (found["kind"], found["family"], found["layers"]) == ("lora", "sd1", 2)
    assert found["components"] == {"unet": 1, "te": 1}
    assert found["rank"] == {"4": 1, "2": 1}
    assert found["alpha"] == 2.0
    assert found["trigger"] == ["garp", "sea"]
    assert found["tags"] == {"garp": 5, "hat": 1}
    assert found["training"]["learning_rate"] == "0.0001"
    assert "vae_name" not in found["training"]
    assert found["config"] == "base = 'x'"
    assert found["base"] == "base.safetensors"
    assert found["parameters"] == 4 * (768 + 320) + 2 * (768 + 768)
    delta = 0.5 * torch.ones(320, 4) @ torch.ones(4, 768)
    assert found["norms"]["unet down 0"] == pytest.approx(float(delta.norm()), rel=1e-5)
    assert set(found["norms"]) == {"unet down 0", "te layer 0"}


@pytest.mark.parametrize(
    ("tensors", "metadata", "family"),
    [
        (lora(K, 768), {}, "sd1"),
        (lora(K, 1024), {}, "sd2"),
        (lora(K, 2048), {}, "sdxl"),
        (lora("lora_te2_text_model_encoder_layers_0_mlp_fc1", 1280, 5120), {}, "sdxl"),
        (lora(f"{ATTENTION}q_proj", 768, 768), {}, "sd1"),
        (lora(f"{ATTENTION}q_proj", 1024, 1024), {}, "sd2"),
        (lora(C, 32), {"ss_base_model_version": "sd_v2_v"}, "sd2"),
        (lora(C, 32), {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "sdxl"),
        (lora(C, 32), {}, None),
        (words(K, **LOHA), {}, "sd1"),
        (words(K, **LOKR), {}, "sd1"),
    ],
)
def test_families(tensors: dict[str, Tensor], metadata: dict[str, str], family: str | None, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "x.safetensors", metadata)
    assert inspect(tmp_path / "x.safetensors")["family"] == family
    assert Survey(load(tmp_path / "x.safetensors")).family == family


def test_what_is_no_lora(tmp_path: Path) -> None:
    save_file({"model.diffusion_model.out.2.bias": torch.ones(4)}, tmp_path / "x.safetensors")
    with pytest.raises(LorasmithError, match="not a LoRA"):
        inspect(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "name",
    ["lora_transformer_single_transformer_blocks_0_attn_to_q", "transformer.single_transformer_blocks.0.attn.to_q"],
)
def test_a_lora_for_flux_is_called_one(name: str, tmp_path: Path) -> None:
    parts = ("lora_down", "lora_up") if name.startswith("lora_") else ("lora_A", "lora_B")
    file = tmp_path / "flux.safetensors"
    save_file({f"{name}.{parts[0]}.weight": torch.ones(4, 8), f"{name}.{parts[1]}.weight": torch.ones(8, 4)}, file)
    assert inspect(file)["family"] == "flux"
    with pytest.raises(LorasmithError, match=r"it is for flux, not for tiny-sd"):
        read_lora(file, ModelLayers.from_base("tiny-sd"))
