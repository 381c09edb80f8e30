"""Scripts of other trainers in two processes: steps, epochs and learning rates are those of the originals' formulas."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

RANKS = 2
IMAGES, BATCH, EPOCHS = 5, 2, 2
BATCHES_OF_A_RANK = math.ceil(math.ceil(IMAGES / BATCH) / RANKS)
"""The originals share out the batches of an epoch, and the last of a rank may be missing on another."""
STEPS = EPOCHS * BATCHES_OF_A_RANK
RATE = 1e-3


def launch(folder: Path, *words: str) -> None:
    """`lorasmith as` under torchrun, in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS)]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(port), "-m", "lorasmith", "as", *words]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr


def steps_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "step"]


def rates_of(run: Path) -> list[float]:
    """The logged learning rate of the UNet in each step."""
    return [step["lr"]["unet"] for step in steps_of(run)]


def linear(step: int, warmup: int, total: int) -> float:
    """The factor of diffusers' linear schedule after `step` calls of its scheduler."""
    return step / max(1, warmup) if step < warmup else max(0.0, (total - step) / max(1, total - warmup))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of one size, in the arrangements of the three programs."""
    for place in ("img/1_garp", "flat"):
        (tmp_path / place).mkdir(parents=True)
        for i in range(IMAGES):
            Image.new("RGB", (64, 64), (40 * i, 90, 200 - 30 * i)).save(tmp_path / place / f"{i}.png")
            (tmp_path / place / f"{i}.txt").write_text(f"garp {i}")
    return tmp_path


@pytest.mark.slow
def test_kohyas_script(folder: Path) -> None:
    """Its schedule takes a step for each process, over max_train_steps * processes; the warm-up is not multiplied."""
    warmup = 2
    settings: dict[str, Any] = {
        "pretrained_model_name_or_path": "tiny-sd",
        "train_data_dir": "img",
        "output_dir": "out",
        "output_name": "garp",
        "resolution": "64",
        "network_module": "networks.lora",
        "network_dim": 2,
        "network_train_unet_only": True,
        "train_batch_size": BATCH,
        "max_train_epochs": EPOCHS,
        "learning_rate": RATE,
        "lr_scheduler": "linear",
        "lr_warmup_steps": warmup,
        "caption_extension": ".txt",
        "mixed_precision": "no",
    }
    launch(folder, "train_network", *(f"--{name}={value}" for name, value in settings.items() if value is not True),
           "--network_train_unet_only")  # fmt: skip
    run = folder / "out" / "garp"
    check_length(run)
    # Our warm-up does not begin with a step of rate 0 (docs/kohya.md); what follows is equal.
    expected = [RATE * linear(RANKS * step, warmup, RANKS * STEPS) for step in range(STEPS)]
    ended = warmup // RANKS
    assert rates_of(run)[ended:] == pytest.approx(expected[ended:])


@pytest.mark.slow
def test_a_script_of_diffusers(folder: Path) -> None:
    """Warm-up and steps are multiplied by the processes, and the schedule takes a step for each of these."""
    settings = {
        "pretrained_model_name_or_path": "tiny-sd",
        "instance_data_dir": "flat",
        "instance_prompt": "a photo of garp",
        "output_dir": "out",
        "resolution": 64,
        "rank": 2,
        "train_batch_size": BATCH,
        "num_train_epochs": EPOCHS,
        "learning_rate": RATE,
        "lr_scheduler": "linear",
        "lr_warmup_steps": 1,
    }
    launch(folder, "train_dreambooth_lora", *(f"--{name}={value}" for name, value in settings.items()), "--scale_lr")
    run = folder / "out"
    check_length(run)
    # --scale_lr multiplies by the batch of each process, the processes and the accumulation.
    rate = RATE * BATCH * RANKS
    expected = [rate * linear(RANKS * step, RANKS, RANKS * STEPS) for step in range(STEPS)]
    assert rates_of(run)[1:] == pytest.approx(expected[1:])
    assert (run / "README.md").is_file()


@pytest.mark.slow
def test_mix_of_show(folder: Path) -> None:
    """images * ratio / (batch of a process * processes) steps; its schedule takes one step for each of them."""
    ratio = 3
    lora = {"rank": 2, "alpha": 1.0}
    table = {
        "name": "garp",
        "manual_seed": 0,
        "mixed_precision": "no",
        "datasets": {
            "train": {
                "name": "LoraDataset",
                "concept_list": "list.json",
                "instance_transform": [{"type": "HumanResizeCropFinalV3", "size": 64, "crop_p": 0.5}],
                "replace_mapping": {"<TOK>": "<garp1> <garp2>"},
                "batch_size_per_gpu": BATCH,
                "dataset_enlarge_ratio": ratio,
            },
            "val_vis": {"name": "PromptDataset", "latent_size": [4, 8, 8], "batch_size_per_gpu": 1},
        },
        "models": {
            "pretrained_path": "tiny-sd",
            "finetune_cfg": {
                "text_embedding": {"enable_tuning": True, "lr": 2 * RATE},
                "unet": {"enable_tuning": True, "lr": RATE, "lora_cfg": lora | {"where": "Attention"}},
            },
            "new_concept_token": "<garp1>+<garp2>",
            "initializer_token": "<rand-0.013>+robot",
        },
        "logger": {"print_freq": 1, "save_checkpoint_freq": 1000},
    }
    (folder / "list.json").write_text(json.dumps([{"instance_prompt": "<TOK>", "instance_data_dir": "flat"}]))
    (folder / "garp.yml").write_text(yaml.safe_dump(table))
    launch(folder, "train_edlora", "-opt", "garp.yml")
    run = folder / "experiments" / "garp"

    # The original's number of steps is not rounded: it makes steps until it is reached, and divides by it.
    steps = IMAGES * ratio / (BATCH * RANKS)
    made = steps_of(run)
    assert len(made) == math.ceil(steps)
    assert made[-1]["samples"] == IMAGES * ratio
    for step, event in enumerate(made):
        factor = linear(step, 0, math.ceil(steps))
        assert event["lr"]["unet"] == pytest.approx(RATE * factor)
        assert abs(factor - (steps - step) / steps) < 1 / steps
        assert event["lr"]["<garp1> <garp2>"] == pytest.approx(2 * RATE * factor)


def check_length(run: Path) -> None:
    """Steps and epochs of the run, and that each epoch has every image once."""
    made = steps_of(run)
    assert len(made) == STEPS
    assert [step["epoch"] for step in made] == [step // BATCHES_OF_A_RANK for step in range(STEPS)]
    assert made[-1]["samples"] == EPOCHS * IMAGES
    table = tomllib.loads((run / "config.toml").read_text())
    assert (table["data"]["batch_size"], table["accumulation"]) == (BATCH, RANKS)
