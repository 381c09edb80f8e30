"""Full fine-tuning: the whole model that comes out is the one that was trained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from answers import Program
from safetensors.torch import load_file

from lorasmith.families.load import load
from tests.garp import copy_photos

TRAIN = ["--pretrained_model_name_or_path=tiny-sd", "--train_data_dir=img", "--resolution=64", "--max_train_steps=2"]
TRAIN += ["--learning_rate=1e-3", "--seed=1", "--output_dir=out", "--output_name=m", "--reg_data_dir=reg"]
PLACES = {
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight": "diff",
    "mid_block.resnets.0.conv1.bias": "diff_b",
    "down_blocks.0.resnets.0.norm1.weight": "w_norm",
    "up_blocks.1.attentions.0.norm.bias": "b_norm",
    "time_embedding.linear_1.weight": "diff",
}


def opened(base: str) -> Any:
    """A base in float32."""
    return load(base, dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy_photos(tmp_path / "img/2_garp", 0, 2)
    copy_photos(tmp_path / "reg/1_face", 2, 4)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changes(file: Path) -> dict[str, torch.Tensor]:
    """What training learned, of some parameters."""
    found = load_file(file)
    keys = {name: f"lora_unet_{name.rpartition('.')[0].replace('.', '_')}.{word}" for name, word in PLACES.items()}
    return {name: found[key] for name, key in keys.items()}


@pytest.mark.slow
def test_one_file_in_the_original_layout(folder: Path, here: Program) -> None:
    answer = here("as", "train_db", *TRAIN, "--save_model_as=safetensors", "--stop_text_encoder_training=1")
    assert answer.code == 0, answer.err
    assert "text = [0.0, 0.5]" in (folder / "out/m/config.toml").read_text()
    base, trained = opened("tiny-sd"), opened(str(folder / "out/m.safetensors"))
    before, after = base.unet.state_dict(), trained.unet.state_dict()
    assert before.keys() == after.keys()
    for name, change in changes(folder / "out/m/m.safetensors").items():
        assert change.abs().max() > 0
        assert torch.equal(after[name], (before[name].half() + change.view_as(before[name])).half().float()), name
    assert sum(not torch.equal(before[name], after[name]) for name in before) > 0.95 * len(before)
    texts = [family.encode_text(["a photo of garp"])["context"] for family in (base, trained)]
    assert 0 < (texts[0] - texts[1]).abs().max() < 5
    vaes = [family.vae.state_dict() for family in (base, trained)]
    assert all(torch.equal(vaes[0][name], vaes[1][name]) for name in vaes[0])
    assert "model.diffusion_model.middle_block.1.proj_in.weight" in load_file(folder / "out/m.safetensors")


@pytest.mark.slow
def test_a_folder_opens_in_stock_diffusers(folder: Path, here: Program) -> None:
    from diffusers import StableDiffusionPipeline

    answer = here("as", "train_db", *TRAIN, "--stop_text_encoder_training=-1", "--save_model_as=diffusers")
    assert answer.code == 0, answer.err
    pipe = StableDiffusionPipeline.from_pretrained(folder / "out/m/m.model", torch_dtype=torch.float32)
    before, after = opened("tiny-sd").unet.state_dict(), pipe.unet.state_dict()
    for name, change in changes(folder / "out/m/m.safetensors").items():
        assert torch.allclose(after[name], before[name] + change.view_as(before[name]), atol=2e-3), name
        assert not torch.equal(after[name], before[name])


@pytest.mark.slow
def test_it_resumes_bit_for_bit(folder: Path, here: Program) -> None:
    table = (
        'base = "tiny-sd"\nsteps = 2\nseed = 1\nadapter = {kind = "full", layers = "*", bias = true, norms = true}\n'
    )
    table += 'data = {images = "img/2_garp", resolution = 64, empty_captions = true}\n'
    table += "optimizer = {lr = 1e-3, text_lr = 1e-3}\n"
    table += "checkpoint = {every_steps = 1, keep = 9}\n"
    (folder / "c.toml").write_text(table)
    assert here("train", "c.toml", "output=a").code == 0
    shutil.copytree("a", "b")
    shutil.rmtree(folder / "b/checkpoints/step-00000002")
    (folder / "b/a.safetensors").unlink()
    answer = here("train", "--resume", "b")
    assert answer.code == 0, answer.err
    one, two = (load_file(next((folder / run).glob("*.safetensors"))) for run in ("a", "b"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_what_cannot_be(folder: Path, here: Program) -> None:
    for more, said in (
        (["--save_model_as=ckpt"], "pickle"),
        (["--no_token_padding"], "pads prompts"),
        (["--stop_text_encoder_training=5", "--max_train_epochs=1"], "use max_train_steps instead"),
    ):
        answer = here("as", "train_db", *TRAIN, *more)
        assert answer.code != 0
        assert said in answer.err
