"""Previews, states and resuming as sd-scripts has them, without its faults."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from answers import Program
from safetensors.torch import load_file

from tests.garp import copy_photos

TRAIN = ["as", "train_network", "--pretrained_model_name_or_path=tiny-sd", "--train_data_dir=img", "--resolution=64"]
TRAIN += ["--network_module=networks.lora", "--network_dim=2", "--learning_rate=1e-3", "--seed=1"]
TRAIN += ["--output_dir=out", "--output_name=x"]
SAMPLES = {
    "p.txt": "# comment\nn dogs --w 72 --h 64 --s 2 --l 3.5 --d 7 --n blurry --ss euler_a\n",
    "p.toml": '[prompt]\nwidth = 72\nheight = 64\nsample_steps = 2\nscale = 3.5\nseed = 7\nnegative_prompt = "blurry"\n'
    'sample_sampler = "euler_a"\n[[prompt.subset]]\nprompt = "n dogs"\n',
    "p.json": '[{"prompt": "n dogs", "width": 72, "height": 64, "sample_steps": 2, "scale": 3.5, "seed": 7, '
    '"negative_prompt": "blurry", "sample_sampler": "euler_a"}]',
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy_photos(tmp_path / "img/1_garp", 0, 3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_resuming_goes_on_where_it_ended(folder: Path, here: Program) -> None:
    """Numbers of steps go on, each image is seen as often as it should be, and the end is the same bit for bit."""
    more = ["--max_train_steps=5", "--save_every_n_steps=2", "--save_state"]
    assert here(*TRAIN, *more).code == 0
    whole = load_file(folder / "out/x.safetensors")
    for name in ("out/x/checkpoints/step-00000005", "out/x-state", "out/x-step00000004-state"):  # killed at step 4
        shutil.rmtree(folder / name)
    for name in ("out/x.safetensors", "out/x-step00000004.safetensors"):
        (folder / name).unlink()
    answer = here(*TRAIN, *more, "--resume=out/x")
    assert answer.code == 0, answer.err
    assert "continuing from step 2 (x-step00000002-state)" in answer.err
    assert "5/5" in answer.err
    again = load_file(folder / "out/x.safetensors")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    assert [path.name for path in (folder / "out/x/checkpoints").iterdir()] == ["step-00000005"]
    assert (folder / "out/x-step00000004.safetensors").is_file()


@pytest.mark.slow
def test_the_same_pictures_from_every_form_of_prompts(folder: Path, here: Program) -> None:
    pictures = []
    for name, text in SAMPLES.items():
        (folder / name).write_text(text)
        more = ["--max_train_steps=2", "--sample_every_n_steps=2", "--sample_at_first", f"--sample_prompts={name}"]
        answer = here(*TRAIN, *more)
        assert answer.code == 0, answer.err
        drawn = sorted(path.name for path in (folder / "out/x/previews").iterdir())
        assert drawn == ["base", "step-00000000", "step-00000002"]
        pictures.append([(folder / "out/x/previews" / place / "00.png").read_bytes() for place in drawn])
    assert pictures[0] == pictures[1] == pictures[2]
    assert pictures[0][0] != pictures[0][2]


def test_a_mistake_in_prompts_is_found_before_training(folder: Path, here: Program) -> None:
    (folder / "bad.txt").write_text("garp --w 64\ngarp --zz 3\n")
    (folder / "control.txt").write_text("garp --cn x.png\n")  # sd-scripts: the picture of a ControlNet
    mistakes = {
        "bad.txt": "bad.txt:2: unknown option --zz",
        "control.txt": "of the form NAME=PICTURE",
        "none.txt": "no such file of prompts",
    }
    for name, said in mistakes.items():
        answer = here(*TRAIN, "--max_train_steps=9", "--sample_every_n_steps=9", f"--sample_prompts={name}")
        assert answer.code == 1
        assert said in answer.err
        assert not (folder / "out/x/checkpoints").exists()
