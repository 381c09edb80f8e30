"""Weights that wait on the host, one behind the other."""

from __future__ import annotations

import pytest
import torch

from lorasmith.families import host_memory
from lorasmith.families.host_memory import ALIGNMENT, HostMemory


@pytest.fixture(autouse=True)
def _small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "SLAB", 4 * ALIGNMENT)


def test_copies_do_not_overwrite_each_other() -> None:
    memory = HostMemory(page_locked=False)
    originals = [
        torch.randn(3, 5),
        torch.randn(60).bfloat16(),
        torch.randn(2, 50),
        torch.randint(-9, 9, (7,)).to(torch.int8),
    ]
    copies = [memory.copy_of(tensor) for tensor in originals]
    for original, copy in zip(originals, copies, strict=True):
        assert copy.dtype == original.dtype
        assert torch.equal(copy, original)


def test_small_tensors_share_one_piece_of_memory() -> None:
    memory = HostMemory(page_locked=False)
    first, second = (memory.copy_of(torch.ones(10)) for _ in range(2))
    assert second.data_ptr() - first.data_ptr() == ALIGNMENT


def test_a_tensor_larger_than_a_slab_has_its_own_memory() -> None:
    large = torch.randn(5 * ALIGNMENT)
    assert torch.equal(HostMemory(page_locked=False).copy_of(large), large)


def test_a_tensor_without_values_is_copied() -> None:
    assert HostMemory(page_locked=False).copy_of(torch.empty(0, 4)).shape == (0, 4)
