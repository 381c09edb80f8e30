"""Masked errors as one number: three ways, each against its formula in float64."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from lorasmith.training.step.objectives.masked import MaskMean, mean_per_sample


@pytest.mark.parametrize("way", get_args(MaskMean))
def test_the_formulas(way: MaskMean) -> None:
    torch.manual_seed(0)
    error, mask = torch.rand(3, 4, 6, 5), torch.rand(3, 1, 6, 5)
    e, m = error.double().numpy(), mask.double().numpy()
    wanted = {
        "mask": (e * m).sum((1, 2, 3)) / (4 * m.sum((1, 2, 3))),
        "image": (e * m).sum((1, 2, 3)) / (4 * 6 * 5),
        "channel_sum": (e * m).sum((1, 2, 3)) / m.sum((1, 2, 3)),  # Mix-of-Show: the mask has one channel
    }[way]
    assert mean_per_sample(error, mask, way).double().numpy() == pytest.approx(wanted, rel=1e-5)
    ones = mean_per_sample(error, torch.ones_like(mask), way)
    assert torch.allclose(mean_per_sample(error, None, way), ones, rtol=1e-5)


@pytest.mark.parametrize("way", get_args(MaskMean))
def test_an_empty_mask_gives_nothing(way: MaskMean) -> None:
    error = torch.rand(2, 4, 3, 3, requires_grad=True)
    loss = mean_per_sample(error, torch.zeros(2, 1, 3, 3), way)
    assert loss.tolist() == [0, 0]
    loss.sum().backward()
    assert error.grad is not None
    assert not error.grad.any()
