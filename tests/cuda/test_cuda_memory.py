"""What a run does when a GPU has not enough memory, and weights that stay on the host. Run with: pytest -m cuda"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lorasmith.core.progress import Lines
from lorasmith.training.config import load_config
from lorasmith.training.session import train

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.fixture(autouse=True)
def whole_card() -> Iterator[None]:
    """Each test begins and ends with all of the card."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def run(images: Path, output: Path, **changes: Any) -> tuple[list[float], list[str]]:
    """The losses of a run of four steps, and what it said."""
    table: dict[str, Any] = {
        "base": "tiny-sd",
        "output": str(output),
        "steps": 4,
        "device": "cuda",
        "data": {"images": str(images), "resolution": 512, "batch_size": 8},
        "adapter": {"rank": 4},
        "optimizer": {"lr": 1e-3},
        "log": {"tensorboard": False, "every_steps": 1},
    }
    said: list[str] = []
    train(load_config(table | changes), progress=Lines(said.append))
    lines = [json.loads(line) for line in (output / "events.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "step"], said


def run_on_the_whole_card(images: Path, folder: Path) -> list[float]:
    """The losses of an eager run. Its peak is that of steps: an earlier run has encoded the images."""
    run(images, folder / "encoded", cuda_graph=False, memory=0, steps=1)
    torch.cuda.reset_peak_memory_stats()
    losses, _ = run(images, folder / "whole", cuda_graph=False, memory=0)
    return losses


def cut_card(share: float) -> None:
    """Leave this process the given share of the most that it has needed so far."""
    needed = torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(share * needed / torch.cuda.get_device_properties(0).total_memory)


@pytest.mark.parametrize("graph", [False, True])
def test_a_step_for_which_memory_does_not_suffice_is_made_again_with_less(
    pictures: Callable[..., Path], tmp_path: Path, graph: bool
) -> None:
    """The losses stay those of the whole card."""
    images = pictures(8, (520, 520))
    whole = run_on_the_whole_card(images, tmp_path)
    cut_card(0.5)
    cut, said = run(images, tmp_path / "cut", cuda_graph=graph, memory=0)
    assert any("memory does not suffice" in line and "made again" in line for line in said), said
    assert cut == pytest.approx(whole, rel=2e-3)


def test_auto_begins_at_a_level_that_fits(pictures: Callable[..., Path], tmp_path: Path) -> None:
    images = pictures(8, (520, 520))
    whole = run_on_the_whole_card(images, tmp_path)
    cut_card(0.5)
    cut, said = run(images, tmp_path / "cut", memory="auto")
    assert any(line.startswith("memory level") for line in said), said
    assert cut == pytest.approx(whole, rel=2e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_that_stay_on_the_host_train_the_same(
    pictures: Callable[..., Path], tmp_path: Path, precision: str
) -> None:
    """Blocks are copied in a stream of their own, which the arithmetic must wait for."""
    images = pictures(8, (150, 140))
    changes: dict[str, Any] = {"steps": 20, "precision": precision, "cuda_graph": False}
    changes["data"] = {"images": str(images), "resolution": 128, "batch_size": 2}
    resident, _ = run(images, tmp_path / "resident", memory=2, **changes)
    streamed, _ = run(images, tmp_path / "streamed", memory=3, **changes)
    assert streamed == pytest.approx(resident, rel=1e-3 if precision == "fp32" else 0.02)
