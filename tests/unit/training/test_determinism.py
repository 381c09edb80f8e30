"""`deterministic`: its settings of torch, which end with the run, and what it says where it cannot be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lorasmith.core.errors import LorasmithError
from lorasmith.training.config import load_config
from lorasmith.training.determinism import deterministic_algorithms
from lorasmith.training.hooks import Hook
from lorasmith.training.session import train


def flags() -> dict[str, bool]:
    memory: Any = torch.utils.deterministic
    return {
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "filled": memory.fill_uninitialized_memory,
        "cudnn": torch.backends.cudnn.deterministic,
        "benchmark": torch.backends.cudnn.benchmark,
        "cudnn attention": torch.backends.cuda.cudnn_sdp_enabled(),
    }


EXACT = {
    "algorithms": True,
    "warn only": False,
    "filled": False,
    "cudnn": True,
    "benchmark": False,
    "cudnn attention": False,
}


@pytest.mark.parametrize("fails", [False, True])
def test_the_settings_of_torch_are_those_of_the_block(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = flags()
    assert before != EXACT
    with deterministic_algorithms(False):
        assert flags() == before
    try:
        with deterministic_algorithms(True):
            assert flags() == EXACT
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
            if fails:
                raise ValueError
    except ValueError:
        pass
    assert flags() == before


def test_a_workspace_that_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic_algorithms(True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            "cumsum_cuda_kernel does not have a deterministic implementation, but you set "
            "'torch.use_deterministic_algorithms(True)'. You can turn off determinism",
            "deterministic: cumsum_cuda_kernel does not have a deterministic implementation; set deterministic = false",
        ),
        (
            "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)`, but this "
            "operation is not deterministic because it uses CuBLAS. set CUBLAS_WORKSPACE_CONFIG=:4096:8",
            "set CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment",
        ),
    ],
)
def test_an_operation_without_a_deterministic_form_is_a_mistake_of_the_config(error: str, message: str) -> None:
    with pytest.raises(LorasmithError) as raised, deterministic_algorithms(True):
        raise RuntimeError(error)
    assert message in str(raised.value)
    with pytest.raises(RuntimeError, match="other"), deterministic_algorithms(True):
        raise RuntimeError("other")


@pytest.mark.slow
def test_a_run_is_deterministic_from_its_first_operation_on(
    pictures: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And trains what it does without, where nothing was random."""
    seen: list[bool] = []
    original = Hook.ready

    def ready(self: Hook) -> None:
        seen.append(torch.are_deterministic_algorithms_enabled())
        original(self)

    monkeypatch.setattr(Hook, "ready", ready)
    images = pictures(3)
    files = []
    for exact in (True, False):
        table: dict[str, Any] = {
            "base": "tiny-sd",
            "output": str(tmp_path / str(exact)),
            "name": "a",
            "steps": 2,
            "deterministic": exact,
            "data": {"images": str(images), "resolution": 64},
            "adapter": {"rank": 1},
            "log": {"tensorboard": False},
        }
        files.append(train(load_config(table)).file)
        assert set(seen) == {exact}
        seen.clear()
    first, second = (load_file(file) for file in files if file is not None)
    assert all(torch.equal(first[key], second[key]) for key in first)
