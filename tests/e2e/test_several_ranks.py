"""Two processes that train one LoRA end where one does, with the same global batch."""

from __future__ import annotations

import json
import os
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

SGD = {"kind": "class", "name": "SGD", "lr": 1.0, "text_lr": 1.0}
"""Its steps are linear in the gradient: what differs by rounding stays so."""


def settings(base: str, images: Path, output: Path, **changes: Any) -> dict[str, Any]:
    table: dict[str, Any] = {
        "base": base,
        "output": str(output),
        "name": "garp",
        "steps": 4,
        "data": {"images": str(images), "resolution": 64, "batch_size": 3, "cache_dir": str(output.parent / "cache")},
        "adapter": {"kind": "lora", "rank": 2, "layers": "attention"},
        "optimizer": SGD,
        "checkpoint": {"every_steps": 2},
    }
    return table | changes


def launch(count: int, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The command under torchrun, in `count` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(port), "-m", "lorasmith", "train"]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert (done.returncode == 0) == (code == 0), done.stderr
    return done


def together(count: int, table: dict[str, Any], **changes: Any) -> Path:
    table = table | changes
    path = Path(table["output"]).with_suffix(".json")
    path.write_text(json.dumps(table))
    launch(count, path)
    return Path(table["output"])


def distances(first: Path, second: Path) -> torch.Tensor:
    one, other = (load_file(run / "garp.safetensors") for run in (first, second))
    assert one.keys() == other.keys()
    return torch.cat([(one[name] - other[name]).abs().flatten() for name in one])


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


@pytest.mark.slow
def test_two_ranks_are_one_and_go_on_as_one(base: str, pictures: Callable[..., Path], tmp_path: Path) -> None:
    """Batches of 3, 2 and 1 of 5 images (an epoch's last is smaller than the ranks are many); resumed from 2 to 1."""
    images = pictures(7)
    alone = train(load_config(settings(base, images, tmp_path / "alone"))).folder
    pair = together(2, settings(base, images, tmp_path / "pair"))
    assert distances(alone, pair).max() < 1e-6

    start = train(load_config(settings(base, images, tmp_path / "start", steps=1))).folder
    assert distances(alone, start).max() > 1e-3, "weights move far more than the ranks differ"
    first, second = ([(e["step"], e["samples"]) for e in events(run, "step")] for run in (alone, pair))
    assert first == second, "one process writes, and it counts all samples"
    losses = [[e["loss"] for e in events(run, "step")] for run in (alone, pair)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)

    for name in ("garp.safetensors", "report.html"):
        (pair / name).unlink()
    newest = pair / "checkpoints" / "step-00000004" / "state.json"
    newest.write_text(newest.read_text()[:-5])
    train(load_config(pair / "config.toml"), resume=pair)
    assert distances(alone, pair).max() < 1e-6
    assert len(events(pair, "resume")) == 1


@pytest.mark.slow
def test_accumulation_text_ema_and_adamw(base: str, pictures: Callable[..., Path], tmp_path: Path) -> None:
    """AdamW divides by the gradient's size, so where a gradient is nearly nothing, its rounding is a step."""
    images = pictures(7)
    more: dict[str, Any] = {"accumulation": 2, "ema": 0.5, "optimizer": {"lr": 1e-3, "text_lr": 1e-3}}
    more["adapter"] = {"kind": "dora", "rank": 2, "layers": "attention"}
    more["concepts"] = [{"words": ["<garp>"], "init": "dog"}]
    alone = train(load_config(settings(base, images, tmp_path / "alone", **more))).folder
    for count in (2, 3):
        several = together(count, settings(base, images, tmp_path / f"several{count}", **more))
        apart = distances(alone, several)
        assert apart.quantile(0.98) < 1e-6
        assert apart.max() < 5e-4


@pytest.mark.slow
def test_parts_of_the_loss_are_of_all_ranks(base: str, pictures: Callable[..., Path], tmp_path: Path) -> None:
    """Seven images of one bucket in batches of 3, so the last has one image, of which the second rank has no part."""
    images = pictures(7)
    more: dict[str, Any] = {"concepts": [{"words": ["<garp>"], "init": "dog"}], "steps": 3}
    more["objective"] = {"parts": [{"kind": "kde", "weight": 0.5}]}
    alone = train(load_config(settings(base, images, tmp_path / "alone", **more))).folder
    pair = together(2, settings(base, images, tmp_path / "pair", **more))
    for name in ("denoising", "kde"):
        first, second = ([e[name] for e in events(run, "step")] for run in (alone, pair))
        assert len(first) == 3
        assert first == pytest.approx(second, rel=1e-5)
        assert min(map(abs, first)) > 0


@pytest.mark.slow
def test_latents_are_shared_out(base: str, pictures: Callable[..., Path], tmp_path: Path) -> None:
    images = pictures(7)
    run = together(2, settings(base, images, tmp_path / "pair", steps=1))
    counts = json.loads((run / "summary.json").read_text())["data"]["cache"]["latents"]
    assert counts == {"found": 0, "made": 7}
    assert len(list((tmp_path / "cache" / "latents").rglob("*.safetensors"))) == 7
    again = together(2, settings(base, images, tmp_path / "again", steps=1))
    assert json.loads((again / "summary.json").read_text())["data"]["cache"]["latents"] == {"found": 7, "made": 0}


@pytest.mark.slow
def test_a_bad_step_on_one_rank_is_skipped_on_all(
    base: str, pictures: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, plugin = pictures(6), tmp_path / "poison.py"
    plugin.write_text(POISON)
    table = settings(base, images, tmp_path / "pair", plugins=["poison"], objective={"kind": "poison"})
    path = tmp_path / "pair.json"
    path.write_text(json.dumps(table))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    launch(2, path)
    assert [e["step"] for e in events(tmp_path / "pair", "skip")] == [2]
    assert [e["step"] for e in events(tmp_path / "pair", "step")] == [1, 3, 4]


POISON = '''
from dataclasses import replace
from typing import Literal
from lorasmith.training.step.objectives.denoising import Denoising


class Poison(Denoising):
    """Not a number in the second step, for the last sample alone."""

    kind: Literal["poison"] = "poison"

    def __call__(self, family, batch, rng):
        result = super().__call__(family, batch, rng)
        bad = rng.step == 1 and 2 in rng.samples
        return replace(result, loss=result.loss * float("nan")) if bad else result
'''


@pytest.mark.slow
def test_a_rank_that_fails_stops_all_with_its_message(
    base: str, pictures: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "failing.py"
    plugin.write_text(
        POISON.replace("Poison", "Failing")
        .replace('"poison"', '"failing"')
        .replace(
            "        bad =",
            "        if rng.step == 1 and 2 in rng.samples:\n"
            "            from lorasmith.core.errors import LorasmithError\n"
            "            raise LorasmithError('the second machine has no more memory')\n        bad =",
        )
    )
    table = settings(base, pictures(6), tmp_path / "pair", plugins=["failing"], objective={"kind": "failing"})
    path = tmp_path / "pair.json"
    path.write_text(json.dumps(table))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    done = launch(2, path, code=1)
    assert "rank 1 of 2: the second machine has no more memory" in done.stderr
    assert "This is a bug in lorasmith" not in done.stderr
    assert not (tmp_path / "pair" / "garp.safetensors").exists()


@pytest.mark.slow
def test_a_folder_with_a_run_stops_all(base: str, pictures: Callable[..., Path], tmp_path: Path) -> None:
    table = settings(base, pictures(3), tmp_path / "run", steps=1)
    train(load_config(table))
    path = tmp_path / "run.json"
    path.write_text(json.dumps(table))
    assert "already holds a run" in launch(2, path, code=1).stderr
