"""Dropouts: what is left out, and that the mean stays."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorasmith.adapters.base import Adapter, Dropouts, LayerSpec
from lorasmith.adapters.full import FullAdapter
from lorasmith.adapters.lora_adapter import LoRAAdapter

SPEC = LayerSpec("unet.x", "linear", (6, 4))
CONV = LayerSpec("unet.x", "conv", (6, 4, 3, 3), padding=(1, 1))


def lora(spec: LayerSpec, **dropouts: float) -> LoRAAdapter:
    torch.manual_seed(0)
    down = torch.randn(8, *spec.shape[1:])
    adapter = LoRAAdapter(spec, down, torch.randn(6, 8, *[1] * len(spec.shape[2:])), 8.0)
    adapter.dropout = Dropouts(**dropouts)
    return adapter.train()


@pytest.mark.parametrize(("spec", "shape"), [(SPEC, (3, 5, 8)), (CONV, (3, 8, 4, 4))], ids=["linear", "conv"])
def test_whole_ranks_of_a_sample_are_left_out(spec: LayerSpec, shape: tuple[int, ...]) -> None:
    h = lora(spec, rank=0.5).drop(torch.ones(shape))
    by_rank = h.movedim(1, -1) if spec.kind == "conv" else h
    first = by_rank.flatten(1, -2)[:, :1]
    assert torch.equal(by_rank.flatten(1, -2), first.expand_as(by_rank.flatten(1, -2)))  # the same at every place
    assert set(h.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(first[0], first[1])  # samples differ


def test_single_neurons_are_left_out() -> None:
    h = lora(SPEC, neuron=0.5).drop(torch.ones(3, 5, 8))
    assert set(h.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(h[0, 0], h[0, 1])


def test_the_whole_adapter_sits_out() -> None:
    adapter = lora(SPEC, module=0.3)
    torch.manual_seed(1)
    share = sum(adapter.skip() for _ in range(2000)) / 2000
    assert share == pytest.approx(0.3, abs=0.04)
    adapter.eval()
    assert not any(adapter.skip() for _ in range(20))


def mean_of(adapter: Adapter, x: Tensor, count: int) -> Tensor:
    return torch.stack([adapter.branch(x) for _ in range(count)]).mean(0)


@pytest.mark.parametrize("dropouts", [{"neuron": 0.3}, {"rank": 0.3}], ids=str)
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_mean_over_passes_is_the_pass_without(kind: str, dropouts: dict[str, float]) -> None:
    adapter: Adapter = lora(SPEC)
    if kind == "full":
        adapter = FullAdapter(SPEC, adapter.delta().detach())
    x = torch.randn(2, 4)
    expected = adapter.eval().branch(x)
    adapter.dropout = Dropouts(**dropouts)
    found = mean_of(adapter.train(), x, 3000)
    assert (found - expected).norm() < 0.08 * expected.norm()


def test_the_positional_seed_decides() -> None:
    adapter, x = lora(SPEC, neuron=0.5), torch.randn(3, 4)
    torch.manual_seed(9)
    first = adapter.branch(x)
    torch.manual_seed(9)
    assert torch.equal(adapter.branch(x), first)
