"""Tools on LoRA files that change a text encoder, with a base whose text encoders are in files that are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import lorasmith
from lorasmith.cli.main import app
from lorasmith.core.errors import LorasmithError
from tests.transformer_bases import text_tensors, write_lora_of_block


@pytest.fixture
def clip(transformer_folder: Path, tmp_path: Path) -> str:
    """The first text encoder in a file of its own."""
    # not where parts are looked for
    (tmp_path / "elsewhere").mkdir()
    save_file(text_tensors(transformer_folder, "text_encoder"), tmp_path / "elsewhere" / "clip_l.safetensors")
    return str(tmp_path / "elsewhere" / "clip_l.safetensors")


@pytest.fixture
def lora(transformer_kind: str, tmp_path: Path) -> Path:
    """A LoRA of a block, and of a layer of CLIP."""
    return write_lora_of_block(tmp_path / "lora.safetensors", transformer_kind, text=True)


def keys_of(path: Path) -> set[str]:
    with safe_open(path, "pt") as file:
        return set(file.keys())


def test_layers_of_a_named_text_encoder_are_written_as_with_a_whole_base(
    alone: Path, clip: str, lora: Path, transformer_folder: Path, tmp_path: Path
) -> None:
    for name, base, parts in (("named", alone, [clip]), ("whole", transformer_folder, [])):
        lorasmith.convert(lora, "diff", base=base, base_parts=parts, output=tmp_path / f"{name}.safetensors")
    named, whole = load_file(tmp_path / "named.safetensors"), load_file(tmp_path / "whole.safetensors")
    assert any("text_model" in key for key in named)
    assert named.keys() == whole.keys()
    assert all(torch.equal(named[key], whole[key]) for key in named)
    with pytest.raises(LorasmithError, match=r"text encoders that the base lacks[\s\S]*--base-part FILE"):
        lorasmith.convert(lora, "diff", base=alone, output=tmp_path / "without.safetensors")


def test_commands_take_the_parts_of_a_base(alone: Path, clip: str, lora: Path, tmp_path: Path) -> None:
    base = ["--base", str(alone), "--base-part", clip, "--output"]
    commands = {
        "resized": ["resize", str(lora), "--rank", "1"],
        "combined": ["combine", str(lora), f"{lora}:0.5"],
        "converted": ["convert", str(lora), "--to", "peft"],
    }
    for name, command in commands.items():
        file = tmp_path / f"{name}.safetensors"
        done = CliRunner().invoke(app, [*command, *base, str(file)])
        assert done.exit_code == 0, (name, done.output, done.exception)
        assert any("text_" in key for key in keys_of(file)), name


def test_extract_compares_a_named_text_encoder(
    transformer_kind: str, alone: Path, clip: str, lora: Path, transformer_folder: Path, tmp_path: Path
) -> None:
    lorasmith.merge(transformer_folder, [lora], tmp_path / "tuned")
    options = ["--rank", "2", "--base-part", clip, "--output", str(tmp_path / "found.safetensors")]
    done = CliRunner().invoke(app, ["extract", str(tmp_path / "tuned"), str(alone), *options])
    assert done.exit_code == 0, (done.output, done.exception)
    assert any("text_model" in key for key in keys_of(tmp_path / "found.safetensors"))


def test_merge_says_what_it_does_not_write_into_named_files(alone: Path, clip: str, lora: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged.safetensors"
    done = CliRunner().invoke(app, ["merge", str(alone), str(lora), "--base-part", clip, "-o", str(merged)])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "clip_l.safetensors are not merged" in " ".join(done.stderr.split())
    assert any(not tensor.equal(load_file(alone)[key]) for key, tensor in load_file(merged).items())


def test_inspect_reads_the_weights_of_a_named_text_encoder(alone: Path, lora: Path, transformer_folder: Path) -> None:
    named = lorasmith.inspect(lora, base=alone, base_parts=[str(transformer_folder)])
    whole = lorasmith.inspect(lora, base=transformer_folder)
    assert named["in fp16"] == whole["in fp16"]
