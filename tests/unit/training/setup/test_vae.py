"""Runs with another VAE than the base's."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import lorasmith
from lorasmith.core.package import assets
from lorasmith.families.load import load
from lorasmith.training.config import load_config
from lorasmith.training.session import train
from lorasmith.training.setup.build import build_run


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base's VAE with moved weights, a folder of diffusers."""
    folder = tmp_path_factory.mktemp("vae") / "moved"
    shutil.copytree(assets() / "tiny-sd/vae", folder)
    file, draws = folder / "diffusion_pytorch_model.safetensors", torch.Generator().manual_seed(0)
    tensors = {name: t * (1 + 0.3 * torch.rand(t.shape, generator=draws)) for name, t in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})
    return folder


@pytest.fixture
def table(pictures: Callable[..., Path], tmp_path: Path) -> dict[str, Any]:
    return {
        "base": "tiny-sd",
        "output": str(tmp_path / "run"),
        "name": "a",
        "steps": 1,
        "data": {"images": str(pictures(2, size=(64, 64))), "resolution": 64},
        "adapter": {"rank": 1, "layers": ["unet.*.attn1.to_k"]},
        "log": {"tensorboard": False},
    }


def metadata(file: Path | None) -> dict[str, str]:
    assert file is not None
    with safe_open(file, "pt") as opened:
        return opened.metadata()


def test_latents_follow_the_vae(table: dict[str, Any], other: Path, tmp_path: Path) -> None:
    """Also where the same images' latents of the base's own VAE are cached already."""
    means = []
    for name, vae in (("own", ""), ("moved", str(other)), ("again", "")):
        run = build_run(load_config(table | {"output": str(tmp_path / name), "vae": vae}))
        run.events.close()
        plan = run.dataset.epoch(0)[0]
        images = [run.dataset.records[item.record].path for item in plan.views]
        pixels = torch.stack([torch.tensor(np.array(Image.open(p))).permute(2, 0, 1) / 127.5 - 1 for p in images])
        moments = run.dataset.load(plan).latents
        assert moments is not None
        means.append(moments.mean)
        torch.testing.assert_close(means[-1], load("tiny-sd", vae=vae).encode_image(pixels).mean, rtol=1e-4, atol=1e-4)
    assert torch.equal(means[0], means[2])
    assert not torch.allclose(means[0], means[1], rtol=0.01, atol=0.01)


@pytest.mark.slow
def test_previews_are_decoded_with_it(table: dict[str, Any], other: Path, tmp_path: Path) -> None:
    pictures = []
    for name, vae in (("own", ""), ("moved", str(other))):
        preview = {"prompts": ["garp"], "every_steps": 1, "steps": 2}
        train(load_config(table | {"output": str(tmp_path / name), "vae": vae, "preview": preview}))
        drawn = np.array(Image.open(tmp_path / name / "previews/base/00.png"))
        folder = lorasmith.sample("tiny-sd", "garp", tmp_path / f"{name} drawn", steps=2, width=64, height=64, vae=vae)
        assert np.array_equal(drawn, np.array(Image.open(folder.files[0])))
        pictures.append(drawn.astype(float))
    assert np.abs(pictures[0] - pictures[1]).mean() > 5


@pytest.mark.slow
def test_the_file_names_it(table: dict[str, Any], other: Path, tmp_path: Path) -> None:
    """In kohya's words; where it lies on this machine stays here."""
    file = tmp_path / "vae.safetensors"
    shutil.copy(other / "diffusion_pytorch_model.safetensors", file)
    said = metadata(train(load_config(table | {"vae": str(file)})).file)
    assert said["ss_vae_name"] == "vae.safetensors"
    assert said["ss_new_vae_hash"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert said["ss_vae_hash"] == hashlib.sha256(file.read_bytes()[0x100000:0x110000]).hexdigest()[:8]
    assert str(tmp_path) not in said["lorasmith.config"]
    assert 'vae = "vae.safetensors"' in said["lorasmith.config"]
    said = metadata(train(load_config(table | {"vae": str(other), "output": str(tmp_path / "folder")})).file)
    assert (said["ss_vae_name"], said["ss_vae_hash"]) == ("moved", "IsADirectory")
    assert "ss_vae_name" not in metadata(train(load_config(table | {"output": str(tmp_path / "own")})).file)


@pytest.mark.slow_except("single_file")
@pytest.mark.parametrize("model", ["layout", "single_file"])
def test_a_whole_model_has_it(table: dict[str, Any], other: Path, tmp_path: Path, model: str) -> None:
    train(load_config(table | {"vae": str(other), "export": {"model": model}}))
    made = load(tmp_path / f"run/a.model{'' if model == 'layout' else '.safetensors'}")
    x0 = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(made.decode(x0), load("tiny-sd", vae=str(other)).decode(x0), rtol=1e-3, atol=1e-3)
    assert made.latent_scale == pytest.approx(load("tiny-sd").latent_scale)


@pytest.mark.slow
def test_a_base_of_one_file_keeps_its_own(table: dict[str, Any], other: Path, tmp_path: Path) -> None:
    from lorasmith.core.progress import Progress
    from lorasmith.families.stable_diffusion.source import Folder
    from lorasmith.files.original import write_original

    class Heard(Progress):
        def __init__(self) -> None:
            self.said: list[str] = []

        def say(self, text: str) -> None:
            self.said.append(text)

    base, progress = write_original(Folder("x", assets() / "tiny-sd"), tmp_path / "base.safetensors"), Heard()
    given = table | {"base": str(base), "vae": str(other), "export": {"model": "layout"}}
    train(load_config(given), progress=progress)
    assert any("has the VAE of the base model" in said for said in progress.said)
    x0 = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    made = load(tmp_path / "run/a.model.safetensors")
    torch.testing.assert_close(made.decode(x0), load("tiny-sd").decode(x0), rtol=1e-3, atol=1e-3)


def test_check_finds_one_that_is_missing(table: dict[str, Any]) -> None:
    found = lorasmith.check(table | {"vae": "none.safetensors"})
    assert [(p.where, "no such file or folder" in p.found) for p in found.errors] == [("vae", True)]
