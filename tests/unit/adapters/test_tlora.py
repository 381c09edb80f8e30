"""T-LoRA: the ranks of a sample follow its noise in training; files are those of a plain LoRA."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.layer import spec_of
from lorasmith.adapters.lora import LoRA
from lorasmith.adapters.lora_adapter import LoRAAdapter
from lorasmith.adapters.tlora import TLoRA, TLoRAAdapter, rank_mask

LINEAR = nn.Linear(12, 24)
CONV = nn.Conv2d(12, 16, 3, padding=1)


def adapter_on(layer: nn.Module, **settings: Any) -> TLoRAAdapter:
    spec = spec_of("unet.x", layer)
    assert spec is not None
    adapter = TLoRA(rank=4, **settings).build(spec, layer.weight, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    assert isinstance(adapter, TLoRAAdapter)
    torch.nn.init.normal_(adapter.up)
    return adapter


@pytest.mark.parametrize(("position", "used"), [(0.0, 8), (0.5, 4), (0.999, 1), (1.0, 1), (0.25, 6)])
def test_ranks_fall_with_the_noise_as_in_the_authors_code(position: float, used: int) -> None:
    """int(((T - t) / T) ** alpha * (r - r_min)) + r_min, for r = 8 and r_min = 1: 8, 4, 1, 1, 6."""
    assert rank_mask(torch.tensor([position]), 8, 1, 1.0).tolist() == [[1.0] * used + [0.0] * (8 - used)]
    by_hand = int((1 - position) ** 2 * (8 - 3)) + 3
    assert int(rank_mask(torch.tensor([position]), 8, 3, 2.0).sum()) == by_hand


def test_fewer_ranks_than_the_minimum_are_all_used() -> None:
    assert rank_mask(torch.tensor([1.0]), 2, 4, 1.0).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(("layer", "shape"), [(LINEAR, (2, 5, 12)), (LINEAR, (2, 12)), (CONV, (2, 12, 6, 7))])
def test_each_sample_has_the_ranks_of_its_own_noise(layer: nn.Module, shape: tuple[int, ...]) -> None:
    adapter = adapter_on(layer)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    adapter.train()
    adapter.begin_pass(torch.tensor([0.0, 1.0]), {})
    masked = adapter.branch(x)

    plain = LoRAAdapter(adapter.layer, adapter.down, adapter.up, 4.0)
    cut = LoRAAdapter(adapter.layer, adapter.down[:1], adapter.up[:, :1], 1.0)
    torch.testing.assert_close(masked[0], plain.branch(x)[0])
    torch.testing.assert_close(masked[1], cut.branch(x)[1])


def test_outside_of_training_all_ranks_are_used() -> None:
    adapter = adapter_on(LINEAR)
    adapter.begin_pass(torch.tensor([1.0, 1.0]), {})
    x = torch.randn(2, 5, 12)
    adapter.eval()
    torch.testing.assert_close(adapter.branch(x), x @ adapter.delta().T)
    assert adapter.product_form() is not None
    adapter.train()
    assert adapter.product_form() is None


def test_ranks_that_are_masked_get_no_gradient() -> None:
    adapter = adapter_on(LINEAR, min_rank=2)
    adapter.train()
    adapter.begin_pass(torch.tensor([1.0]), {})
    adapter.branch(torch.randn(1, 5, 12)).square().sum().backward()
    assert adapter.down.grad is not None
    assert adapter.down.grad[:2].abs().min() > 0
    assert adapter.down.grad[2:].abs().max() == 0


def test_a_set_tells_its_adapters_and_computes_each_mask_once() -> None:
    model = nn.ModuleDict({"x": nn.Linear(8, 8), "y": nn.Linear(8, 8)})
    places = {"unet.x": (model, "x"), "unet.y": (model, "y")}
    adapters = AdapterSet.create(TLoRA(rank=4, layers=("*",)), places, {}, seed=0)
    assert adapters.follows_noise
    adapters.begin_pass(torch.tensor([0.5]))
    first, second = adapters.adapters.values()
    assert first.mask is second.mask
    assert not AdapterSet.create(LoRA(layers=("*",)), places, {}, seed=0).follows_noise


def test_a_plain_lora_continues_as_one_whose_ranks_follow_the_noise() -> None:
    plain = adapter_on(LINEAR).tensors()
    restored = LoRA().restore(spec_of("unet.x", LINEAR), LINEAR.weight, plain)  # type: ignore[arg-type]
    continued = TLoRA(min_rank=3).continue_from(restored)
    assert isinstance(continued, TLoRAAdapter)
    assert continued.min_rank == 3
    torch.testing.assert_close(continued.delta(), restored.delta())
