"""Filling the caches when a GPU has not enough memory for the denoiser and what encodes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lorasmith.core import free_memory
from lorasmith.core.progress import Lines
from lorasmith.training.config import TextConfig
from lorasmith.training.setup.caches import fill_caches
from lorasmith.training.step.distributed import Ranks


class Denoiser:
    """Notes where it is moved to."""

    def __init__(self) -> None:
        self.places: list[str] = []

    def to(self, place: object) -> None:
        self.places.append(str(place))


class FakeDataset:
    """Raises the errors that it is given, one for each call."""

    latents_cached = text_cached = True

    def __init__(self, *errors: Exception) -> None:
        self.errors: Iterator[Exception] = iter(errors)
        self.calls = 0

    def prepare(self, *_: Any, **__: Any) -> None:
        self.calls += 1
        for error in self.errors:
            raise error


def fill(dataset: Any, device: str) -> tuple[Denoiser, list[str], list[str]]:
    """Fill with stand-ins; returns where the denoiser went, what was said, and what was released."""
    said: list[str] = []
    released: list[str] = []
    denoiser = Denoiser()
    family: Any = SimpleNamespace(device=torch.device(device), denoiser=denoiser, release=released.append)
    config: Any = SimpleNamespace(trained_groups=lambda: {"unet"}, concepts=(), text=TextConfig())
    fill_caches(config, dataset, family, Lines(said.append), Ranks())
    return denoiser, said, released


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


def test_the_denoiser_waits_on_the_host_when_encoding_beside_it_needs_too_much() -> None:
    dataset = FakeDataset(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    denoiser, said, released = fill(dataset, "cuda")
    assert dataset.calls == 2
    assert denoiser.places == ["cpu", "cuda"]
    assert "waits on the host" in said[0]
    assert released == ["vae", "text"]


def test_with_memory_enough_nothing_moves() -> None:
    denoiser, said, _ = fill(FakeDataset(), "cuda")
    assert (denoiser.places, said) == ([], [])


@pytest.mark.parametrize(
    ("device", "error"), [("cuda", ValueError("broken")), ("cpu", RuntimeError("DefaultCPUAllocator: out of memory"))]
)
def test_other_errors_are_raised(device: str, error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        fill(FakeDataset(error), device)


@pytest.mark.parametrize(("share", "expected"), [(1.0, 50 + 12), (0.5, 20 + 12), (0.1, 0)])
def test_free_memory_of_a_gpu_is_within_the_part_that_the_process_may_have(
    share: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 100 bytes 50 are free. This process has 30, of which tensors use 18."""
    answers = {"mem_get_info": (50, 100), "memory_reserved": 30, "memory_allocated": 18}
    answers["get_per_process_memory_fraction"] = share

    def answer(device: object, value: object) -> object:
        if not isinstance(device, int):  # as torch.cuda.get_per_process_memory_fraction of torch 2.11
            raise ValueError(f"Expected a torch.device with a specified index or an integer, but got:{device}")
        return value

    for name, value in answers.items():
        monkeypatch.setattr(torch.cuda, name, partial(answer, value=value), raising=False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert free_memory.free_memory(torch.device("cuda")) == expected
