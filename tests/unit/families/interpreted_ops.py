"""The fused operations, with their Triton kernels interpreted on the CPU, give what the plain ones give.

`test_fused_ops.py` runs this file in a process of its own: Triton decides when it is imported whether it interprets.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch

from lorasmith.families.ops import group_norm, kernels, stacked_layers
from lorasmith.families.stable_diffusion.unet import TransformerBlock
from tests.unit.families.fused_ops import SETTINGS, AttentionExample, Example, largest_error


def plain(example: Example, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "INTERPRETED", False)
        return example.results(fused=False)


@pytest.mark.parametrize(("layers", "linear_projection"), [("attention", False), ("all", True)])
def test_outputs_and_gradients_equal_those_of_the_plain_operations(
    layers: str, linear_projection: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = Example("cpu", torch.float32, layers, linear_projection=linear_projection)
    expected = plain(example, monkeypatch)
    assert largest_error(example.results(fused=True), expected) < 3e-5


@pytest.mark.parametrize("kind", sorted(SETTINGS))
def test_every_kind_equals_the_plain_operations(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first pass, which knows no batches yet, in the next, and where layers do not know of the others."""
    example = AttentionExample(kind, "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "INTERPRETED", False)
        expected = example.results()
    for one_pass in (True, True, False):
        assert largest_error(example.results(one_pass=one_pass), expected) < 3e-5


def test_changes_of_one_shape_are_one_batch_and_are_freed_where_memory_is_short() -> None:
    """They are as large as the weights, which gradient checkpointing has no room for."""
    example = AttentionExample("loha", "cpu")
    expected = example.results()
    last = stacked_layers._LAST_PASSES[example.network]
    assert [len(batch.entries) for batch in last.batches] == [5]
    target = weakref.ref(last.batches[0].entries[0])
    del last
    assert largest_error(example.results(changes=False), expected) < 3e-5
    gc.collect()
    assert target() is None


def test_lean_saves_compute_the_feed_forward_part_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers, and less is kept."""
    example = Example("cpu", torch.float32, "all linear", linear_projection=True)
    expected = plain(example, monkeypatch)
    _, kept = kept_numbers(lambda: example.results(fused=True))
    for block in example.unet.modules():
        if isinstance(block, TransformerBlock):
            block.recompute_feed_forward = True
    found, kept_lean = kept_numbers(lambda: example.results(fused=True))
    assert largest_error(found, expected) < 3e-5
    assert kept_lean < 0.85 * kept


def kept_numbers(compute: Callable[[], list[torch.Tensor]]) -> tuple[list[torch.Tensor], int]:
    """What is computed, and how many numbers autograd keeps for it."""
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        return compute(), sum(sizes.values())


def test_group_norm_over_chunks_of_pixels_equals_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_norm, "SMALL", 0)
    monkeypatch.setattr(group_norm, "CHUNK_ROWS", 16)
    example = Example("cpu", torch.float32, "attention", linear_projection=False)
    expected = plain(example, monkeypatch)
    assert largest_error(example.results(fused=True), expected) < 3e-5


def test_weights_stay_in_place_after_the_first_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA graphs hold their addresses, with the adapters on and off."""
    example = Example("cpu", torch.float32, "all linear", linear_projection=False)
    example.results(fused=True)
    before = {name: parameter.data_ptr() for name, parameter in example.unet.named_parameters()}
    example.results(fused=True)
    assert {name: parameter.data_ptr() for name, parameter in example.unet.named_parameters()} == before
