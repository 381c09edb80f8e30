"""Layers that read the same input as one product: when their weights can be used as one matrix where they are."""

from __future__ import annotations

import torch

from lorasmith.families.ops.stacked_layers import _adjacent


def test_weights_below_each_other_in_one_storage_are_one_matrix() -> None:
    whole = torch.randn(10, 8)
    joined = _adjacent([whole[:4], whole[4:]])
    assert joined is not None
    assert torch.equal(joined, whole)
    assert joined.data_ptr() == whole.data_ptr()


def test_separate_storages_that_are_neighbours_in_memory_are_not_one_matrix() -> None:
    """The CUDA allocator places small weights one after the other; a view over both is an error of torch."""
    memory = bytearray(2 * 4 * 8 * 4)
    first = torch.frombuffer(memory, dtype=torch.float32, count=32).view(4, 8)
    second = torch.frombuffer(memory, dtype=torch.float32, count=32, offset=128).view(4, 8)
    assert second.data_ptr() == first.data_ptr() + 128
    assert _adjacent([first, second]) is None


def test_weights_that_are_not_below_each_other_are_not_one_matrix() -> None:
    whole = torch.randn(10, 8)
    assert _adjacent([whole[4:], whole[:4]]) is None
    assert _adjacent([whole[:4, :4], whole[4:, :4].contiguous()]) is None
