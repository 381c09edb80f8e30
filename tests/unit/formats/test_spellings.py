"""Names of other trainers, as these write them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.formats.read import load
from lorasmith.formats.spellings import parse_key, to_kohya_spelling

Q = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
DOTTED = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
TEXT = "text_model_encoder_layers_0_self_attn_q_proj"
TEXT_DOTTED = "text_model.encoder.layers.0.self_attn.q_proj"
CASES = {
    f"lora_unet_{Q}.lora_up.weight": (f"lora_unet_{Q}.lora_up.weight", "kohya"),
    f"lora_unet_{Q}.lora_A.weight": (f"lora_unet_{Q}.lora_down.weight", "kohya"),
    f"lora_unet_{Q}_lora.down.weight": (f"lora_unet_{Q}.lora_down.weight", "kohya"),
    f"lora_te_{TEXT}.alpha": (f"lora_te_{TEXT}.alpha", "kohya"),
    f"lora_unet_{Q}.hada_w1_a": (f"lora_unet_{Q}.hada_w1_a", "kohya"),
    f"lora_unet_{Q}.dora_scale": (f"lora_unet_{Q}.dora_scale", "kohya"),
    f"lora_unet_{Q}.diff_b": (f"lora_unet_{Q}.diff_b", "kohya"),
    f"lycoris_{Q}.lokr_w1": (f"lora_unet_{Q}.lokr_w1", "SimpleTuner"),
    f"unet.{DOTTED}.to_q.lora_A.weight": (f"lora_unet_{Q}.lora_down.weight", "peft"),
    f"unet.{DOTTED}.to_q.lora_B.default.weight": (f"lora_unet_{Q}.lora_up.weight", "peft"),
    f"base_model.model.{DOTTED}.to_q.lora_B.weight": (f"lora_unet_{Q}.lora_up.weight", "peft"),
    f"base_model.model.{TEXT_DOTTED}.lora_B.weight": (f"lora_te1_{TEXT}.lora_up.weight", "peft"),
    f"unet.{DOTTED}.to_q.lora.up.weight": (f"lora_unet_{Q}.lora_up.weight", "diffusers"),
    f"unet.{DOTTED}.processor.to_q_lora.up.weight": (f"lora_unet_{Q}.lora_up.weight", "diffusers"),
    f"{DOTTED}.processor.to_q_lora.down.weight": (f"lora_unet_{Q}.lora_down.weight", "diffusers before 0.22"),
    f"{DOTTED}.processor.to_out_lora.down.weight": (
        f"lora_unet_{Q[:-1]}out_0.lora_down.weight",
        "diffusers before 0.22",
    ),
    f"text_encoder.{TEXT_DOTTED}.lora_linear_layer.up.weight": (f"lora_te1_{TEXT}.lora_up.weight", "diffusers"),
    f"text_encoder_2.{TEXT_DOTTED}.lora_A.weight": (f"lora_te2_{TEXT}.lora_down.weight", "peft"),
    "diffusion_model.input_blocks.1.1.proj_in.lora_A.weight": (
        "lora_unet_input_blocks_1_1_proj_in.lora_down.weight",
        "original layout",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_names(name: str) -> None:
    found = parse_key(name)
    assert found is not None
    assert (f"{found.flat_name}.{found.tensor_name}", found.spelling) == CASES[name]


@pytest.mark.parametrize(
    "name", ["emb_params", "clip_l", "model.diffusion_model.out.2.bias", "lora_unet_x.q_layer.foo"]
)
def test_other_names_stay(name: str) -> None:
    assert parse_key(name) is None
    assert set(to_kohya_spelling({name: torch.ones(1)}, {}).tensors) == {name}


def test_magnitudes_of_peft_are_along_outputs() -> None:
    stem = f"unet.{DOTTED}.to_q"
    found = to_kohya_spelling(
        {
            f"{stem}.lora_A.weight": torch.ones(2, 6),
            f"{stem}.lora_B.weight": torch.ones(8, 2),
            f"{stem}.lora_magnitude_vector": torch.ones(8),
            "unet.conv_in.lora_A.weight": torch.ones(2, 4, 3, 3),
            "unet.conv_in.lora_B.weight": torch.ones(8, 2, 1, 1),
            "unet.conv_in.lora_magnitude_vector": torch.ones(1, 8, 1, 1),
        },
        {},
    ).tensors
    assert found[f"lora_unet_{Q}.dora_scale"].shape == (8, 1)
    assert found["lora_unet_conv_in.dora_scale"].shape == (8, 1, 1, 1)


def test_alphas_of_a_peft_config(tmp_path: Path) -> None:
    """What diffusers itself packs into the metadata: rank and alpha patterns, rsLoRA."""
    import json

    from peft import LoraConfig

    plain = LoraConfig(r=4, lora_alpha=2, target_modules=["to_q"], alpha_pattern={"attn1.to_q": 6})
    stable = LoraConfig(r=4, lora_alpha=2, target_modules=["q_proj"], use_rslora=True)
    packed = {f"unet.{k}": v for k, v in plain.to_dict().items()}
    packed |= {f"text_encoder.{k}": v for k, v in stable.to_dict().items()}
    path = tmp_path / "x.safetensors"
    tensors: dict[str, Tensor] = {}
    for stem in (f"unet.{DOTTED}.to_q", f"unet.{DOTTED}.to_k", f"text_encoder.{TEXT_DOTTED}"):
        tensors |= {f"{stem}.lora_A.weight": torch.ones(4, 6), f"{stem}.lora_B.weight": torch.ones(6, 4)}
    meta = {"lora_adapter_metadata": json.dumps(packed, default=lambda v: sorted(v) if isinstance(v, set) else str(v))}
    save_file(tensors, path, meta)
    found = load(path).tensors
    assert float(found[f"lora_unet_{Q}.alpha"]) == 6
    assert float(found[f"lora_unet_{Q[:-1]}k.alpha"]) == 2
    assert float(found[f"lora_te1_{TEXT}.alpha"]) == pytest.approx(2 * 4**0.5)


def test_bundled_words_are_apart(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({f"lora_unet_{Q}.diff": torch.ones(2, 2), "bundle_emb.garp.string_to_param.*": torch.ones(2, 768)}, path)
    file = load(path)
    assert set(file.tensors) == {f"lora_unet_{Q}.diff"}
    assert file.bundled_embeddings["garp"]["string_to_param.*"].shape == (2, 768)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.safetensors", b"hello", "not a readable safetensors"),
        ("x.safetensors", b"", "not a readable safetensors"),
        ("x.safetensors", (1 << 60).to_bytes(8, "little") + b"{}", "not a readable safetensors"),
        ("x.pt", b"hello", "pickle"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LorasmithError, match=says):
        load(tmp_path / name)


def test_truncated_and_not_finite_files(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({f"lora_unet_{Q}.lora_up.weight": torch.full((4, 4), float("nan"))}, path)
    with pytest.raises(LorasmithError, match="not finite"):
        load(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(LorasmithError, match="not a readable"):
        load(path)
    save_file({}, path)
    with pytest.raises(LorasmithError, match="no tensors"):
        load(path)
    with pytest.raises(LorasmithError, match="no such"):
        load(tmp_path / "y.safetensors")
