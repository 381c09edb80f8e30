"""A VAE in the place of a base's own, from everything that one comes in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorasmith.core.errors import LorasmithError
from lorasmith.core.package import assets
from lorasmith.families.load import load
from lorasmith.families.stable_diffusion.source import Folder
from lorasmith.files.original import write_original

FORMS = ("folder", "pipeline", "prefixed", "bare", "diffusers_names", "checkpoint")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny base's VAE with moved weights, in each form."""
    place = tmp_path_factory.mktemp("vae")
    found = {name: place / name for name in ("folder", "pipeline")}
    found |= {name: place / f"{name}.safetensors" for name in FORMS[2:]}
    shutil.copytree(assets() / "tiny-sd", found["pipeline"])
    file = found["pipeline"] / "vae/diffusion_pytorch_model.safetensors"
    draws = torch.Generator().manual_seed(0)
    moved = {name: t * (1 + 0.3 * torch.rand(t.shape, generator=draws)) for name, t in load_file(file).items()}
    save_file(moved, file, {"format": "pt"})
    shutil.copytree(found["pipeline"] / "vae", found["folder"])
    write_original(Folder("x", found["pipeline"]), found["checkpoint"])
    prefix = "first_stage_model."
    original = {name: t for name, t in load_file(found["checkpoint"]).items() if name.startswith(prefix)}
    save_file(original | {f"{prefix}loss.logvar": torch.zeros(1)}, found["prefixed"])
    save_file({name.removeprefix(prefix): t for name, t in original.items()}, found["bare"])
    save_file(moved, found["diffusers_names"])
    return found


def test_the_file_is_in_the_original_layout(other: dict[str, Path]) -> None:
    """As diffusers' own converter reads it."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    config = json.loads((other["folder"] / "config.json").read_text())
    found = convert_ldm_vae_checkpoint(load_file(other["bare"]), config)
    expected = load_file(other["folder"] / "diffusion_pytorch_model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name].view_as(t), t) for name, t in expected.items())


@pytest.mark.slow_except("folder", "prefixed")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_that_vae(form: str, other: dict[str, Path]) -> None:
    from diffusers import AutoencoderKL

    theirs: Any = AutoencoderKL.from_pretrained(other["folder"], torch_dtype=torch.float32)
    draws = torch.Generator().manual_seed(1)
    pixels, x0 = torch.rand(1, 3, 64, 64, generator=draws) * 2 - 1, torch.randn(1, 4, 8, 8, generator=draws)
    plain, family = load("tiny-sd"), load("tiny-sd", vae=str(other[form]))
    with torch.no_grad():
        expected = theirs.encode(pixels).latent_dist.mean
        drawn = theirs.decode(x0 / theirs.config.scaling_factor).sample
    torch.testing.assert_close(family.encode_image(pixels).mean, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(family.decode(x0), drawn, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain.decode(x0), drawn, atol=1e-2)
    assert family.fingerprint("vae") != plain.fingerprint("vae")
    assert [family.fingerprint(p) for p in ("unet", "text")] == [plain.fingerprint(p) for p in ("unet", "text")]


def test_a_factor_that_it_does_not_name_is_the_bases(other: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(other["folder"], tmp_path / "old")
    config = json.loads((tmp_path / "old/config.json").read_text())
    own = config.pop("scaling_factor")
    (tmp_path / "old/config.json").write_text(json.dumps(config))
    assert load("tiny-sd", vae=str(tmp_path / "old")).latent_scale == own
    (tmp_path / "old/config.json").write_text(json.dumps(config | {"scaling_factor": 0.25}))
    assert load("tiny-sd", vae=str(tmp_path / "old")).latent_scale == 0.25


def test_what_is_no_vae_is_said(other: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"x")
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    shutil.copytree(other["folder"], tmp_path / "sixteen")
    config = json.loads((tmp_path / "sixteen/config.json").read_text())
    (tmp_path / "sixteen/config.json").write_text(json.dumps(config | {"latent_channels": 16}))
    for name, message in {
        "a.pt": "pickle",
        "b.safetensors": "no such file or folder",
        "c.ckpt": "no such file or folder",
        "lora.safetensors": "there is no VAE in it",
        "sixteen": "latents of 16 channels at 1/8",
        "": "not a diffusers VAE",
    }.items():
        with pytest.raises(LorasmithError, match=message):
            load("tiny-sd", vae=str(tmp_path / name))
    with pytest.raises(LorasmithError, match="fetching it from the hub failed"):
        load("tiny-sd", vae="nobody/no-such-vae")


@pytest.mark.parametrize("inner", ["", "vae/"])
def test_a_hub_id_is_taken_from_the_local_copy(
    inner: str, other: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository that is a VAE, and one that has one."""
    from huggingface_hub import constants

    snapshot = tmp_path / "models--some--vae/snapshots/abc"
    shutil.copytree(other["folder"], snapshot / inner)
    (tmp_path / "models--some--vae/refs").mkdir()
    (tmp_path / "models--some--vae/refs/main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    family = load("tiny-sd", vae="some/vae")
    assert family.fingerprint("vae") == load("tiny-sd", vae=str(other["folder"])).fingerprint("vae")
