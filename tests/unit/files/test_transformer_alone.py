"""Tools on LoRA files with a base of Flux or SD3 that is the transformer alone, without text encoders or a VAE."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorasmith.core.errors import LorasmithError
from lorasmith.families.load import open_base
from lorasmith.families.resolve import find
from lorasmith.files.combine import combine
from lorasmith.files.convert import convert
from lorasmith.files.extract import extract
from lorasmith.files.lora import LoraInput, OutputFile
from lorasmith.files.lowrank import Truncation
from lorasmith.files.merge import merge
from lorasmith.files.model import ModelLayers
from lorasmith.files.resize import resize
from tests.transformer_bases import QKV, original_names, text_tensors, whole_checkpoint, write_lora_of_block


def same_tensors(first: Path, second: Path) -> bool:
    ours, others = load_file(first), load_file(second)
    return ours.keys() == others.keys() and all(torch.equal(ours[key], others[key]) for key in ours)


@pytest.mark.slow_except("flux*")
def test_the_layers_are_those_of_the_transformer(transformer_kind: str, transformer_folder: Path, alone: Path) -> None:
    ours = ModelLayers.from_base(alone)
    whole = ModelLayers.from_base(transformer_folder)
    assert ours.layers == {name: spec for name, spec in whole.layers.items() if name.startswith("transformer.")}


@pytest.mark.slow_except("sd3*")
def test_tools_write_what_they_write_with_a_whole_base(
    transformer_kind: str, transformer_folder: Path, alone: Path, tmp_path: Path
) -> None:
    lora = write_lora_of_block(tmp_path / "lora.safetensors", transformer_kind)
    written: dict[str, list[Path]] = {}
    for name, base in (("alone", alone), ("folder", transformer_folder)):
        out = tmp_path / f"of_{name}"
        out.mkdir()
        files = [out / f"{tool}.safetensors" for tool in ("peft", "diff", "resized", "combined")]
        convert(lora, "peft", OutputFile(files[0]), base=base)
        convert(lora, "diff", OutputFile(files[1]), base=base)
        resize(lora, Truncation(rank=1), OutputFile(files[2]), base=base)
        combine([LoraInput(lora, 0.5), LoraInput(lora)], OutputFile(files[3]), base=base)
        written[name] = files
    for ours, other in zip(written["alone"], written["folder"], strict=True):
        assert same_tensors(ours, other), ours.name


@pytest.mark.slow_except("flux*")
def test_merge_and_extract_give_what_a_whole_base_gives(
    transformer_kind: str, transformer_folder: Path, alone: Path, tmp_path: Path
) -> None:
    lora = write_lora_of_block(tmp_path / "lora.safetensors", transformer_kind)
    merge(alone, [LoraInput(lora, 0.7)], tmp_path / "merged.safetensors")
    merge(transformer_folder, [LoraInput(lora, 0.7)], tmp_path / "merged")
    merged, of_folder = (
        load_file(tmp_path / "merged.safetensors"),
        original_names(tmp_path / "merged", transformer_kind),
    )
    assert merged.keys() == of_folder.keys()
    for key, tensor in merged.items():
        torch.testing.assert_close(tensor, of_folder[key], atol=1e-6, rtol=0)
    assert any(not tensor.equal(load_file(alone)[key]) for key, tensor in merged.items())

    outputs = [OutputFile(tmp_path / f"{name}.safetensors", torch.float32) for name in ("a", "b")]
    for (tuned, base), output in zip(
        [("merged.safetensors", alone), ("merged", transformer_folder)], outputs, strict=True
    ):
        report = extract(tmp_path / tuned, base, Truncation(rank=2), output)
        assert (report.layers, report.notes) == (3, [])
    ours, other = load_file(outputs[0].path), load_file(outputs[1].path)
    assert ours.keys() == other.keys()
    stem = f"lora_unet_{QKV[transformer_kind]}"
    changes = [f[f"{stem}.lora_up.weight"] @ f[f"{stem}.lora_down.weight"] for f in (ours, other)]
    torch.testing.assert_close(changes[0], changes[1], atol=1e-4, rtol=0)


def test_text_encoders_of_one_of_two_models_are_not_compared(
    transformer_kind: str, transformer_folder: Path, alone: Path, tmp_path: Path
) -> None:
    tuned = tmp_path / "tuned.safetensors"
    tensors = whole_checkpoint(transformer_folder, transformer_kind)
    key = next(key for key in tensors if key.endswith("attn.qkv.weight"))
    tensors[key] = tensors[key] + torch.ones(len(tensors[key]), 1) * 0.1
    save_file(tensors, tuned)
    report = extract(tuned, alone, Truncation(rank=1), OutputFile(tmp_path / "out.safetensors"))
    assert report.layers == 3
    assert any("te1" in note and "lacks te1" in note for note in report.notes), report.notes


def test_a_text_encoder_that_the_base_lacks_is_named(transformer_kind: str, alone: Path, tmp_path: Path) -> None:
    lora = write_lora_of_block(tmp_path / "lora.safetensors", transformer_kind, text=True)
    with pytest.raises(LorasmithError, match=r"text encoder.*te1") as error:
        convert(lora, "peft", OutputFile(tmp_path / "out.safetensors"), base=alone)
    assert "another model" not in str(error.value)


def test_changes_of_a_text_encoder_in_another_file_are_not_dropped_in_silence(
    transformer_kind: str, transformer_folder: Path, alone: Path, tmp_path: Path
) -> None:
    save_file(text_tensors(transformer_folder, "text_encoder"), alone.parent / "clip_l.safetensors")
    lora = write_lora_of_block(tmp_path / "lora.safetensors", transformer_kind, text=True)
    report = merge(alone, [LoraInput(lora)], tmp_path / "merged.safetensors")
    assert any("clip_l.safetensors" in note and "not merged" in note for note in report.notes), report.notes


def test_a_base_of_another_family_is_named_in_the_error(
    transformer_kind: str, alone: Path, transformer_folder: Path
) -> None:
    for base in (alone, transformer_folder):
        other = "sd3" if transformer_kind == "flux" else "flux"
        with pytest.raises(LorasmithError, match=rf"{base.name}.* no model of {other}.*{transformer_kind}"):
            find(base, other)
        with pytest.raises(LorasmithError, match=rf"{base.name}.* no model of sdxl"):
            open_base(base, family="sdxl")
    with pytest.raises(LorasmithError, match=r"tiny-sd.* no model of flux.*sd1"):
        find("tiny-sd", "flux")
