"""How many CPU threads torch has while a GPU computes the steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorasmith.training.config import TrainConfig, load_config
from lorasmith.training.session import few_cpu_threads


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """torch as if it had three threads; the numbers that are set."""
    numbers = [3]
    monkeypatch.setattr(torch, "get_num_threads", lambda: numbers[-1])
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    return numbers


def config_of(output: Path, **changes: object) -> TrainConfig:
    return load_config({"base": "tiny-sd", "output": str(output), "data": {"images": "images"}, **changes})


def test_cpu_threads_do_not_wait_actively_beside_a_gpu_and_come_back(three_threads: list[int], tmp_path: Path) -> None:
    with few_cpu_threads(config_of(tmp_path), torch.device("cuda")):
        assert torch.get_num_threads() == 1
    assert three_threads == [3, 1, 3]


@pytest.mark.parametrize(("device", "changes"), [("cpu", {}), ("cuda", {"threads": 2})])
def test_threads_of_a_cpu_run_or_of_the_config_stay(
    three_threads: list[int], tmp_path: Path, device: str, changes: dict[str, int]
) -> None:
    with few_cpu_threads(config_of(tmp_path, **changes), torch.device(device)):
        assert torch.get_num_threads() == 3
