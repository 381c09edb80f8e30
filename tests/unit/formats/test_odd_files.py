"""Files that contradict themselves, that hold what other programs left in them, or that are something else."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.formats.inspect import common_tags, inspect
from lorasmith.formats.read import load
from lorasmith.formats.survey import Survey, change_norm

Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_q"
K = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
DOTTED = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q"


def lora(flat_name: str = Q, rank: int = 4) -> dict[str, Tensor]:
    return {f"{flat_name}.lora_down.weight": torch.ones(rank, 8), f"{flat_name}.lora_up.weight": torch.ones(6, rank)}


def saved(folder: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    path = folder / "x.safetensors"
    save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, path, metadata)
    return path


# --- what other programs left in a file


@pytest.mark.parametrize("name", ["default", "default_0", "style", "pixel-art", "a b"])
def test_adapter_names_of_peft(name: str, tmp_path: Path) -> None:
    tensors = {f"{DOTTED}.lora_A.{name}.weight": torch.ones(4, 8), f"{DOTTED}.lora_B.{name}.weight": torch.ones(6, 4)}
    assert set(load(saved(tmp_path, tensors)).tensors) == set(lora())


def test_adapter_names_behind_an_underscore(tmp_path: Path) -> None:
    tensors = {f"{DOTTED}.lora_A_1.weight": torch.ones(4, 8), f"{DOTTED}.lora_B_1.weight": torch.ones(6, 4)}
    assert set(load(saved(tmp_path, tensors)).tensors) == set(lora())


@pytest.mark.parametrize("twin", [f"{DOTTED}.lora_A.second.weight", f"{DOTTED}.lora.down.weight", f"{Q}.lora_A.weight"])
def test_two_loras_in_one_file_are_refused(twin: str, tmp_path: Path) -> None:
    tensors = {f"{DOTTED}.lora_A.first.weight": torch.ones(4, 8), f"{DOTTED}.lora_B.first.weight": torch.ones(6, 4)}
    with pytest.raises(LorasmithError, match="two LoRAs"):
        load(saved(tmp_path, tensors | {twin: torch.ones(4, 8)}))


@pytest.mark.parametrize("factor", [0.5, -2.0])
def test_a_scalar_multiplies_the_change(factor: float, tmp_path: Path) -> None:
    kinds: dict[str, dict[str, Tensor]] = {
        "lora": {"lora_down.weight": torch.ones(2, 8), "lora_up.weight": torch.ones(6, 2)},
        "loha": {f"hada_w{i}_{x}": torch.ones(6, 2) if x == "a" else torch.ones(2, 8) for i in "12" for x in "ab"},
        "lokr": {"lokr_w1": torch.ones(2, 2), "lokr_w2_a": torch.ones(3, 2), "lokr_w2_b": torch.ones(2, 4)},
    }
    for tensors in kinds.values():
        keyed = {f"{Q}.{name}": tensor for name, tensor in tensors.items()}
        file = load(saved(tmp_path, keyed | {f"{Q}.scalar": torch.tensor([factor])}))
        layer = Survey(file).layers[Q]
        assert "scalar" not in layer
        assert change_norm(layer) == pytest.approx(abs(factor) * (change_norm(tensors) or 0))
        # all factors are ones, so that the product of their first numbers is the factor
        firsts = [float(layer[name].flatten()[0]) for name in tensors]
        assert math.prod(firsts) == factor


def test_layers_that_change_nothing_are_left_out_with_a_note(tmp_path: Path) -> None:
    file = load(saved(tmp_path, lora() | {f"{K}.alpha": torch.tensor(4.0)}))
    assert set(file.tensors) == set(lora())
    assert "1 layer has an alpha and nothing else" in file.notes[0]
    file = load(saved(tmp_path, lora() | lora(K, rank=0)))
    assert set(file.tensors) == set(lora())
    assert "1 layer has rank 0" in file.notes[0]
    with pytest.raises(LorasmithError, match="none of its layers has a change"):
        load(saved(tmp_path, lora(rank=0)))


def test_numbers_in_a_list_of_one_are_numbers(tmp_path: Path) -> None:
    file = load(saved(tmp_path, lora() | {f"{Q}.alpha": torch.tensor([2.0])}))
    assert file.tensors[f"{Q}.alpha"].dim() == 0
    assert inspect(file.path)["alpha"] == 2.0


# --- what contradicts itself


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({f"{Q}.alpha": torch.ones(2)}, "must be one number"),
        ({f"{K}.lora_up.weight": torch.ones(6, 4)}, "has only one of"),
        (
            {f"{K}.lora_mid.weight": torch.ones(4, 4, 3, 3), f"{K}.lora_down.weight": torch.ones(4, 8)},
            "has only one of",
        ),
        ({f"{Q}.lora_down.weight": torch.ones(3, 8)}, "cannot be multiplied"),
        ({f"{Q}.lora_down.weight": torch.ones(4)}, "must be a matrix"),
        ({f"{Q}.lora_up.weight": torch.ones(6, 4, dtype=torch.int8)}, "quantized"),
        ({f"{K}.hada_w1_a": torch.ones(6, 2)}, "has only one of"),
        ({f"{K}.lokr_w1_a": torch.ones(6, 2), f"{K}.lokr_w1_b": torch.ones(3, 2)}, "cannot be multiplied"),
        ({"bundle_emb.x": torch.ones(4)}, "bundle_emb.TOKEN.PART"),
        ({"bundle_emb..x": torch.ones(4)}, "bundle_emb.TOKEN.PART"),
    ],
)
def test_damaged_layers(tensors: dict[str, Tensor], says: str, tmp_path: Path) -> None:
    path = saved(tmp_path, lora() | tensors)
    with pytest.raises(LorasmithError, match=says) as caught:
        load(path)
    assert str(caught.value).count(str(path)) == 1


def test_factors_of_one_layer_that_do_not_belong_together(tmp_path: Path) -> None:
    tensors = {f"hada_w{i}_a": torch.ones(5 + int(i), 2) for i in "12"} | {
        f"hada_w{i}_b": torch.ones(2, 8) for i in "12"
    }
    with pytest.raises(LorasmithError, match="is damaged"):
        inspect(saved(tmp_path, {f"{Q}.{name}": tensor for name, tensor in tensors.items()}))


def test_a_small_file_of_a_huge_product_is_not_computed() -> None:
    """A megabyte stands for 10^12 numbers here."""
    a, b = torch.ones(1 << 20, 1), torch.ones(1, 1 << 20)
    assert change_norm({"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": a, "hada_w2_b": b}) is None
    assert change_norm({"lora_up.weight": a, "lora_down.weight": b}) == pytest.approx(2.0**20)
    assert change_norm({"lora_up.weight": b, "lora_down.weight": a}) == pytest.approx(2.0**20)


@pytest.mark.parametrize(
    "text", ["null", "3", "[1]", "{", '{"a": 3}', '{"a": {"x": "y"}}', '{"a": {"x": NaN}}', "[" * 9999]
)
def test_damaged_metadata(text: str, tmp_path: Path) -> None:
    keys = ("ss_tag_frequency", "lorasmith.history", "lorasmith.plugins", "lorasmith.words", "modelspec.trigger_phrase")
    found = inspect(saved(tmp_path, lora(), dict.fromkeys(keys, text)))
    assert found["tags"] == {}


def test_counts_of_tags_beside_damaged_ones() -> None:
    assert common_tags({"ss_tag_frequency": '{"a": {"x": "y", "hat": 2}, "b": 3, "c": {"hat": 1}}'}) == {"hat": 3}


# --- what is something else


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("diffusion_model.blocks.0.self_attn.q.lora_A.weight", "Wan"),
        ("diffusion_model.layers.0.attention.to_q.lora_A.weight", "Z-Image"),
        ("lora_prior_unet_down_blocks_0.lora_down.weight", "Cascade"),
        ("model.diffusion_model.input_blocks.0.0.weight", "whole model"),
        ("down_blocks.0.resnets.0.conv1.weight", "a UNet"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", "a text encoder"),
        ("first_stage_model.decoder.conv_in.weight", "a VAE"),
        ("control_model.input_blocks.0.0.weight", "ControlNet"),
        ("ip_adapter.1.to_k_ip.weight", "IP-Adapter"),
    ],
)
def test_other_files_are_called_what_they_are(key: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(LorasmithError, match=says):
        load(saved(tmp_path, {key: torch.ones(4, 4)}))


def test_names_of_stable_diffusion_are_not_taken_for_others(tmp_path: Path) -> None:
    for name in (Q, f"{DOTTED}", "diffusion_model.input_blocks.1.1.proj_in", "unet.down_blocks.0.resnets.0.conv1"):
        tensors = {f"{name}.lora_A.weight": torch.ones(4, 8), f"{name}.lora_B.weight": torch.ones(6, 4)}
        assert len(load(saved(tmp_path, tensors)).tensors) == 2


def test_an_embedding_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(LorasmithError, match="--embedding"):
        inspect(saved(tmp_path, {"emb_params": torch.ones(1, 768)}))


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(LorasmithError, match="is a folder"):
        load(tmp_path)
