"""Two GPUs train what one does. Run with: pytest -m cuda"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lorasmith.training.config import load_config
from lorasmith.training.session import train

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees fewer than two CUDA devices"),
]


def table(images: Path, output: Path, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "base": "tiny-sd",
        "output": str(output),
        "name": "garp",
        "steps": 6,
        "device": "cuda",
        "cuda_graph": False,
        "data": {"images": str(images), "resolution": 128, "batch_size": 3, "cache_dir": str(output.parent / "cache")},
        "adapter": {"rank": 4},
        "optimizer": {"kind": "class", "name": "SGD", "lr": 1.0, "text_lr": 1.0},
        "log": {"tensorboard": False},
    }
    return settings | changes


def on_two(settings: dict[str, Any]) -> Path:
    """The run under torchrun, a process for each of two GPUs."""
    path = Path(settings["output"]).with_suffix(".json")
    path.write_text(json.dumps(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(port), "-m", "lorasmith", "train", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(settings["output"])


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "step"]


def test_graphs_on_two_gpus_train_as_eager_steps_do(pictures: Callable[..., Path], tmp_path: Path) -> None:
    """The sum over the GPUs is in the graph; with shares of 2 and 1 images, and of 1 and none."""
    images = pictures(7, (150, 140))
    changes: dict[str, Any] = {"optimizer": {"lr": 1e-3}, "steps": 24}
    alone = train(load_config(table(images, tmp_path / "alone", **changes))).folder
    eager = on_two(table(images, tmp_path / "eager", **changes))
    graph = on_two(table(images, tmp_path / "graph", cuda_graph=True, **changes))
    assert losses(eager) == pytest.approx(losses(alone), rel=5e-3)
    assert losses(graph) == pytest.approx(losses(alone), rel=5e-3)


def test_two_gpus_end_where_one_does(pictures: Callable[..., Path], tmp_path: Path) -> None:
    images = pictures(7, (150, 140))
    alone = train(load_config(table(images, tmp_path / "alone"))).folder
    pair = on_two(table(images, tmp_path / "pair"))
    assert losses(pair) == pytest.approx(losses(alone), rel=1e-3)
    one, other = (load_file(run / "garp.safetensors") for run in (alone, pair))
    moved = max(one[name].abs().max().item() for name in one if "lora_up" in name)
    apart = max((one[name] - other[name]).abs().max().item() for name in one)
    assert apart < 1e-2 * moved


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_on_two_gpus_is_close(pictures: Callable[..., Path], tmp_path: Path, precision: str) -> None:
    images = pictures(7, (150, 140))
    changes: dict[str, Any] = {"precision": precision, "optimizer": {"lr": 1e-3}}
    alone = train(load_config(table(images, tmp_path / "alone", **changes))).folder
    pair = on_two(table(images, tmp_path / "pair", **changes))
    assert losses(pair) == pytest.approx(losses(alone), rel=0.05)
