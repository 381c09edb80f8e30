"""Layers that read the same input as one product: when their weights can be used as one matrix where they are."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import nn

from lorasmith.adapters.adapter import Product
from lorasmith.adapters.layer import Adapted, spec_of
from lorasmith.adapters.lora_adapter import LoRAAdapter
from lorasmith.families.ops import stacked_layers
from lorasmith.families.ops.linear_form import LinearForm, linear_form
from lorasmith.families.ops.stacked_layers import FactorTable, StackedLayers, _adjacent, one_refresh, stack


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


def test_a_pass_of_the_base_does_not_make_the_table_of_factors_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Preserved images and DCO run the base within a step: a new table in each step waits for the device, and no step
    can be a CUDA graph."""
    monkeypatch.setattr(stacked_layers.kernels, "usable", lambda x: True)
    made: list[FactorTable] = []
    written: list[FactorTable] = []

    class Counted(FactorTable):
        def __init__(self, entries: Any, like: torch.Tensor) -> None:
            super().__init__(entries, like)
            made.append(self)

        def write(self) -> None:
            written.append(self)

    monkeypatch.setattr(stacked_layers, "FactorTable", Counted)
    network, layer, x = nn.Module(), nn.Linear(8, 8).requires_grad_(False), torch.randn(2, 8)
    with_adapter = LinearForm(layer, layer.weight, layer.bias, (Product(torch.zeros(8, 4), torch.randn(4, 8), 1.0),))
    without = LinearForm(layer, layer.weight, layer.bias)

    def one_pass(form: LinearForm) -> None:
        with one_refresh(network, x):
            stack([form.renewed()]).refresh()

    for _ in range(2):  # the first steps make what they need
        one_pass(with_adapter)
        one_pass(without)
    count = len(made)
    written.clear()
    one_pass(with_adapter)
    one_pass(without)
    one_pass(with_adapter)
    assert len(made) == count
    assert len(written) == 3


def test_weights_that_were_moved_are_freed() -> None:
    """The table of factors kept the first of them: 1.1 GiB on SDXL."""
    up, down = torch.zeros(8, 4), torch.randn(4, 8)
    layers = [nn.Linear(8, 8).requires_grad_(False) for _ in range(2)]
    forms = [LinearForm(layer, layer.weight, layer.bias, (Product(up, down, 1.0),)) for layer in layers]
    held = forms[0].weight.untyped_storage()._cdata
    made = stack(forms)
    del forms
    gc.collect()
    tensors = [o for o in gc.get_objects() if isinstance(o, torch.Tensor)]
    assert made.moved
    assert not [o for o in tensors if o.untyped_storage()._cdata == held]


def test_the_factors_of_a_convolution_are_kept_without_their_autograd_graph() -> None:
    """A graph that is kept from the first step holds its stream, and no later step can become a CUDA graph."""
    layer = nn.Conv2d(8, 6, 1).requires_grad_(False)
    spec = spec_of("proj_in", layer)
    assert spec is not None
    adapter = LoRAAdapter(spec, torch.randn(4, 8), torch.randn(6, 4), alpha=4.0)
    adapted = Adapted(layer, spec)
    adapted.add(adapter)
    form = linear_form(adapted)
    assert form is not None
    assert form.products[0].up.grad_fn is not None, "a view of the parameter, through which it is trained"
    stacked = StackedLayers([form])
    (kept,) = stacked.products[0]
    assert kept.up.grad_fn is None
    assert kept.down.grad_fn is None
    assert (kept.up.data_ptr(), kept.down.data_ptr()) == (adapter.up.data_ptr(), adapter.down.data_ptr())
