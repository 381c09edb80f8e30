"""The start `svd_down`: the directions that a weight reads most, and no change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lorasmith.adapters.layer import spec_of
from lorasmith.adapters.lora import LoRA


@pytest.mark.parametrize("layer", [nn.Linear(12, 24), nn.Conv2d(6, 16, 3)])
def test_rows_are_right_singular_vectors_with_the_norm_of_kaiming(layer: nn.Module) -> None:
    spec = spec_of("unet.x", layer)
    assert spec is not None
    weight = layer.weight.detach()  # type: ignore[union-attr]
    adapter = LoRA(rank=3, init="svd_down").build(spec, weight, torch.Generator().manual_seed(0))
    assert adapter is not None
    assert adapter.delta().abs().max() == 0
    rows = adapter.down.detach().flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(3) / 3, atol=1e-5, rtol=0)
    # no other three directions carry more of the weight
    kept = (weight.flatten(1) @ rows.T * 3**0.5).square().sum()
    torch.testing.assert_close(kept, torch.linalg.svdvals(weight.flatten(1))[:3].square().sum())


def test_ranks_beyond_those_of_the_weight_start_at_random() -> None:
    layer = nn.Linear(12, 2)
    spec = spec_of("unet.x", layer)
    assert spec is not None
    adapter = LoRA(rank=4, init="svd_down").build(spec, layer.weight, torch.Generator().manual_seed(0))
    assert adapter is not None
    assert adapter.down[2:].abs().min() > 0


def test_a_core_has_no_such_start() -> None:
    with pytest.raises(ValueError, match="tucker"):
        LoRA(init="svd_down", tucker=True)
