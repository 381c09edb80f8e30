"""A base that cannot be trained is refused from its headers, and called what it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lorasmith.core.errors import LorasmithError
from lorasmith.families.load import load, open_base

Bases = Callable[[str], Path]


def without(base: Path, target: Path, prefix: str | tuple[str, ...]) -> Path:
    """A copy of a single file without the tensors that begin with `prefix`."""
    tensors = load_file(base)
    with safe_open(base, "pt") as file:
        metadata = file.metadata()
    save_file({name: value for name, value in tensors.items() if not name.startswith(prefix)}, target, metadata)
    return target


def with_channels(base: Path, target: Path, channels: int) -> Path:
    """A copy of a diffusers folder whose UNet takes this number of channels."""
    shutil.copytree(base, target)
    config_file = target / "unet" / "config.json"
    config = json.loads(config_file.read_text())
    config_file.write_text(json.dumps(config | {"in_channels": channels}))
    weights_file = target / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(weights_file)
    first = weights["conv_in.weight"]
    weights["conv_in.weight"] = torch.cat([first, first.new_zeros(first.shape[0], channels - 4, 3, 3)], 1)
    save_file(weights, weights_file)
    return target


@pytest.mark.slow_except("*-sd1")
@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("every_name", [True, False])
def test_a_complete_base_has_no_fault(kind: str, every_name: bool, bases: Bases) -> None:
    for path in (bases(kind), bases(kind).with_name(f"{kind}.safetensors")):
        open_base(path).check_parts(every_name=every_name)


@pytest.mark.slow_except("cond*")
@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("first_stage_model.", "it has no VAE"),
        ("cond_stage_model.", "it has no text encoder"),
        ("model.diffusion_model.middle_block.2", r"UNet does not fit.*weights are missing \(mid_block\.resnets\.1"),
        ("first_stage_model.decoder.mid", r"VAE does not fit.*weights are missing \(decoder\.mid_block"),
        ("cond_stage_model.transformer.text_model.encoder.layers.2", r"text encoder does not fit.*layers\.2"),
    ],
)
def test_parts_that_are_missing_are_named(prefix: str, message: str, bases: Bases, tmp_path: Path) -> None:
    path = without(bases("sd1").with_name("sd1.safetensors"), tmp_path / "cut.safetensors", prefix)
    with pytest.raises(LorasmithError, match=message):
        open_base(path).check_parts(every_name=True)


def test_all_faults_are_named_at_once(bases: Bases, tmp_path: Path) -> None:
    path = without(bases("sd1").with_name("sd1.safetensors"), tmp_path / "cut.safetensors", ("first_", "cond_"))
    with pytest.raises(LorasmithError, match=r"it has no VAE[\s\S]*it has no text encoder"):
        open_base(path).check_parts(every_name=False)


def test_another_vae_stands_for_a_missing_one(bases: Bases, tmp_path: Path) -> None:
    path = without(bases("sd1").with_name("sd1.safetensors"), tmp_path / "cut.safetensors", "first_stage_model.")
    open_base(path, vae=str(bases("sd1"))).check_parts(every_name=True)


@pytest.mark.parametrize(("channels", "name"), [(9, "inpainting"), (8, "InstructPix2Pix"), (5, "depth"), (6, "not an")])
def test_a_unet_that_takes_more_than_latents(channels: int, name: str, bases: Bases, tmp_path: Path) -> None:
    folder = with_channels(bases("sd1"), tmp_path / "base", channels)
    for action in (lambda: open_base(folder).check_parts(every_name=False), lambda: load(folder)):
        with pytest.raises(LorasmithError, match=rf"{name}.*{channels} channels.*Use the text-to-image model"):
            action()
