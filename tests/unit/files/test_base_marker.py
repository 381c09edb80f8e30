"""Files that InvokeAI could not use get a change of zeros, which changes nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorasmith import api
from lorasmith.formats.consumers import reader_support
from lorasmith.formats.read import load
from lorasmith.formats.survey import Survey

CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
TIME = "lora_unet_down_blocks_0_resnets_0_time_emb_proj"
LATE_K = "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
NORM = "lora_unet_down_blocks_0_resnets_0_norm1"
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_"


def lora(name: str, out: int, *inputs: int) -> dict[str, Tensor]:
    up = torch.ones(out, 2, *[1] * (len(inputs) - 1))
    return {f"{name}.lora_down.weight": torch.ones(2, *inputs), f"{name}.lora_up.weight": up}


FILES = {
    "convolutions": (lora(CONV, 320, 320, 3, 3), "portable", "yyyyy"),
    "time embedding first": (lora(TIME, 320, 1280) | lora(LATE_K, 1280, 768), "portable", "yyyyy"),
    "ia3": ({f"{LATE_K}.weight": torch.ones(1280), f"{LATE_K}.on_input": torch.tensor(0.0)}, "kohya", "yppyn"),
    "norms": ({f"{NORM}.w_norm": torch.ones(320), f"{NORM}.b_norm": torch.ones(320)}, "kohya", "yyyyn"),
    "full differences": ({f"{CONV}.diff": torch.ones(320, 320, 3, 3)}, "diff", "yyyyn"),
}
"""Tensors, the format to write, and what A1111, Forge, ComfyUI, InvokeAI and diffusers then do (yes, partly, no)."""


def converted(tensors: dict[str, Tensor], to: str, folder: Path) -> tuple[Path, list[str]]:
    save_file(tensors, folder / "x.safetensors", {"ss_base_model_version": "sd_v1"})
    report = api.convert(folder / "x.safetensors", to)
    return report.file, report.notes


@pytest.mark.parametrize("name", FILES)
def test_invoke_loads_what_it_could_not(name: str, tmp_path: Path) -> None:
    tensors, to, expected = FILES[name]
    path, notes = converted(tensors, to, tmp_path)
    before = reader_support(Survey(load(tmp_path / "x.safetensors")))
    after = reader_support(Survey(load(path)))
    assert before["InvokeAI"]["loads"] == "no"
    assert "".join(str(answer["loads"])[0] for answer in after.values()) == expected
    assert any("InvokeAI" in note for note in notes)


def test_the_added_change_is_zero_and_nothing_else_is_changed(tmp_path: Path) -> None:
    tensors = lora(CONV, 320, 320, 3, 3)
    path, _ = converted(tensors, "kohya", tmp_path)
    written = load_file(path)
    added = written.keys() - {key for key in written if key.startswith(CONV)}
    assert {key.partition(".")[0] for key in added} == {f"{TEXT}{part}_proj" for part in ("q", "k", "v", "out")}
    assert all(not written[key].any() for key in added if not key.endswith("alpha"))
    for key, tensor in tensors.items():
        assert torch.equal(written[key], tensor)


def test_files_that_tell_the_base_are_not_changed(tmp_path: Path) -> None:
    path, notes = converted(lora(LATE_K, 1280, 768), "kohya", tmp_path)
    assert {key.partition(".")[0] for key in load_file(path)} == {LATE_K}
    assert not any("InvokeAI" in note for note in notes)


def test_sdxl_is_told_by_a_cross_attention(tmp_path: Path) -> None:
    """Of both text encoders alone InvokeAI learns nothing: each `lora_up` makes it forget what `lora_down` said."""
    name = "lora_unet_input_blocks_1_0_in_layers_2"
    tensors = lora(name, 320, 320, 3, 3) | {f"{name}.alpha": torch.tensor(3.0)}
    save_file(tensors, tmp_path / "x.safetensors", {"ss_base_model_version": "sdxl_base_v1-0"})
    report = api.convert(tmp_path / "x.safetensors", "portable")
    survey = Survey(load(report.file))
    assert survey.family == "sdxl"
    assert {float(tensors["alpha"]) for tensors in survey.layers.values()} == {3.0}
    assert {reader: answer["loads"] for reader, answer in reader_support(survey).items()} == dict.fromkeys(
        ("A1111", "Forge", "ComfyUI", "InvokeAI", "diffusers"), "yes"
    )
