"""A run that is killed and resumed ends with the weights of a run that was not, bit for bit."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lorasmith.training.config import load_config
from lorasmith.training.output.checkpoint import find_newest
from lorasmith.training.session import train
from lorasmith.training.setup.build import build_run
from lorasmith.training.step.loop import optimizer_step
from tests.waiting import wait_until


def settings(images: Path, output: Path, **changes: object) -> dict:
    table: dict = {
        "base": os.environ.get("LORASMITH_TEST_BASE", "tiny-sd"),
        "output": str(output),
        "steps": 6,
        "name": "garp",
        "ema": 0.9,
        "data": {
            "images": str(images),
            "resolution": 64,
            "batch_size": 2,
            "workers": 2,
            "transforms": [{"kind": "flip"}, {"kind": "shuffle"}],
        },
        "adapter": {"kind": "lora", "rank": 2, "layers": "attention", "dropout": 0.1},
        "optimizer": {"kind": "adamw", "lr": 1e-3, "text_lr": 1e-3},
        "lr_schedule": {"kind": "cosine", "warmup": 2},
        "checkpoint": {"every_steps": 1, "keep": 3},
    }
    return table | changes


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "garp.safetensors")


@pytest.mark.slow
def test_kill_and_resume_is_bit_for_bit(pictures: Callable[..., Path], tmp_path: Path) -> None:
    images = pictures(5)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(load_config(settings(images, whole, steps=12)))

    config = tmp_path / "config.json"
    config.write_text(json.dumps(settings(images, killed, steps=12)))
    child = subprocess.Popen([sys.executable, "-m", "lorasmith", "train", str(config)], stdout=subprocess.DEVNULL)
    try:
        wait_until((killed / "checkpoints" / "step-00000005").exists, child=child)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    reached, _ = find_newest(killed)
    assert reached is not None
    assert not (killed / "garp.safetensors").exists()

    result = train(load_config(killed / "config.toml"), resume=killed)
    assert result.steps == 12
    assert_equal(weights(whole), weights(killed))


def test_stop_and_resume_is_bit_for_bit_in_the_middle_of_an_epoch(
    pictures: Callable[..., Path], tmp_path: Path
) -> None:
    """Also with a damaged newest checkpoint: the one before is taken."""
    images = pictures(5)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(load_config(settings(images, whole)))
    shutil.copytree(whole, stopped)
    config = load_config(stopped / "config.toml").model_copy(update={"output": stopped})
    (stopped / "garp.safetensors").unlink()
    damaged = stopped / "checkpoints" / "step-00000006" / "adapter.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-8])
    result = train(config, resume=stopped)
    assert result.steps == 6
    assert_equal(weights(whole), weights(stopped))
    steps = [e["step"] for e in events(stopped) if e["event"] == "step"]
    assert steps == list(range(1, 7))


@pytest.mark.slow
def test_what_changes_in_the_course_of_a_run_goes_on_after_a_stop(
    pictures: Callable[..., Path], tmp_path: Path
) -> None:
    """Images that are new in each view, tags that come step by step, epochs without captions."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    changes = [
        {"kind": "letterbox"},
        {"kind": "color", "rate": 0.7},
        {"kind": "tag_warmup", "until": 0.8, "start": 0},
        {"kind": "caption_dropout", "rate": 0.0, "every_epochs": 2},
    ]
    for folder in (whole, stopped):
        table = settings(pictures(5, name=f"{folder.name}-images"), folder, steps=6, text={"weighted": True})
        table["data"] |= {"transforms": changes, "buckets": {"enabled": False}}
        table["checkpoint"] |= {"keep": 6}
        train(load_config(table))
    for step in (4, 5, 6):
        shutil.rmtree(stopped / "checkpoints" / f"step-{step:08d}")
    (stopped / "garp.safetensors").unlink()
    assert train(load_config(stopped / "config.toml"), resume=stopped).steps == 6
    assert_equal(weights(whole), weights(stopped))


@pytest.mark.slow
def test_previews_and_validation_do_not_move_training(pictures: Callable[..., Path], tmp_path: Path) -> None:
    images = pictures(5)
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    table = settings(images, plain, steps=4)
    table["data"] |= {"validation": {"split": 0.25}}
    train(load_config(table))
    train(
        load_config(
            table
            | {
                "output": str(watched),
                "preview": {"prompts": ["a photo of garp"], "every_steps": 2, "steps": 2, "width": 64, "height": 64},
                "validation": {"every_steps": 1, "timesteps": [100, 800]},
            }
        )
    )
    assert_equal(weights(plain), weights(watched))
    kinds = [e["event"] for e in events(watched)]
    assert kinds.count("validation") == 5
    assert kinds.count("preview") == 2


def test_micro_batches_of_one_step_add_up_to_the_whole_batch(pictures: Callable[..., Path], tmp_path: Path) -> None:
    table = settings(pictures(4), tmp_path / "run", ema=0.0)
    table["data"] |= {"batch_size": 4}
    table["adapter"] |= {"dropout": 0.0}
    outcomes = []
    for sizes in ((4,), (1, 3), (2, 2)):
        run = build_run(load_config(table), overwrite=True)
        whole = run.dataset.epoch(0)[0]
        places = [0, *itertools.accumulate(sizes)]
        parts = [replace(whole, views=whole.views[a:b]) for a, b in itertools.pairwise(places)]
        outcome = optimizer_step(run, parts, number=0)
        outcomes.append((float(outcome.loss), float(outcome.grad_norm)))
        run.adapters.detach()
    assert outcomes[1] == pytest.approx(outcomes[0], rel=1e-4)
    assert outcomes[2] == pytest.approx(outcomes[0], rel=1e-4)


def events(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert any(t.abs().max() > 0 for name, t in first.items() if "lora_up" in name)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
