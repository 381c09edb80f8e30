"""Timesteps and weightings that other trainers have for flow matching, beside their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.core.rng import StepRng
from lorasmith.diffusion.prediction import Epsilon, Velocity, VPrediction
from lorasmith.diffusion.rectified_flow import RectifiedFlow
from lorasmith.diffusion.schedule import NoiseSchedule
from lorasmith.diffusion.timesteps import TimestepSampler
from lorasmith.diffusion.timesteps.quantile import Quantile
from lorasmith.diffusion.timesteps.shifted import Shifted
from lorasmith.diffusion.weightings.bell import Bell
from lorasmith.diffusion.weightings.flex_curve import FlexCurve
from lorasmith.diffusion.weightings.x0 import X0

PATH = RectifiedFlow()
T = torch.tensor([0.001, 0.25, 0.5, 0.75, 1.0])
AT = torch.linspace(0.05, 0.95, 19)


def draws(sampler: TimestepSampler) -> Tensor:
    return torch.cat([sampler(StepRng(3, step, list(range(64))), PATH) for step in range(300)])


def test_the_x0_weighting_makes_the_error_that_of_x0() -> None:
    x0, noise, output = (torch.randn(5, 4, 2, 2, generator=torch.Generator().manual_seed(i)) for i in range(3))
    x_t, target = PATH.add_noise(x0, noise, T), Velocity().target(x0, noise, T, PATH)
    # sd-scripts: model_pred * (-sigmas) + noisy_model_input, compared with the latents
    theirs = ((output * -T.view(-1, 1, 1, 1) + x_t - x0) ** 2).mean((1, 2, 3))
    ours = X0()(T, PATH, Velocity()) * ((output - target) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    schedule, t = NoiseSchedule.scaled_linear(), torch.tensor([0, 500, 999])
    torch.testing.assert_close(X0()(t, schedule, VPrediction()), schedule.sigma(t) ** 2, rtol=1e-4, atol=1e-6)
    assert float(X0()(torch.zeros(1), PATH, Velocity())) == 0
    with pytest.raises(LorasmithError, match="velocity and v_prediction only"):
        X0().check(Epsilon())


@pytest.mark.parametrize("half", [False, True])
def test_the_bell_is_that_of_ai_toolkit(half: bool) -> None:
    """Its table: index 0 is noise, the smallest of 1000 values is subtracted, and the mean of the whole bell is 1."""
    x = torch.arange(1000, dtype=torch.float32)
    y = torch.exp(-2 * ((x - 500) / 1000) ** 2)
    y -= y.min()
    table = y * (1000 / y.sum())
    if half:
        table[500:] = table[500:].max()
    at = torch.tensor([10, 250, 500, 600, 900])
    weights = Bell(half=half)(1 - at / 1000, PATH, Velocity())
    torch.testing.assert_close(weights, table[at], rtol=0, atol=5e-3)


def test_the_flex_curve_is_within_21_thousandths_of_ai_toolkits_table() -> None:
    """Values of its table at t = 1, 0.98, ... (index 0, 20, ...), and its mean."""
    table = {1.0: 0.9057, 0.98: 1.1761, 0.9: 1.5068, 0.8: 1.4413, 0.7: 1.2636, 0.6: 1.0826, 0.5: 0.9254, 0.4: 0.8049}
    table |= {0.3: 0.7312, 0.2: 0.7161, 0.1: 0.7162, 0.001: 0.4473}
    weights = FlexCurve()(torch.tensor(list(table)), PATH, Velocity())
    torch.testing.assert_close(weights, torch.tensor(list(table.values())), rtol=0.021, atol=0)
    everywhere = FlexCurve()(torch.linspace(0, 1, 10001), PATH, Velocity())
    assert float(everywhere.mean()) == pytest.approx(1, abs=1e-3)
    with pytest.raises(LorasmithError, match="velocity only"):
        FlexCurve().check(Epsilon())


@pytest.mark.parametrize(("prefer", "power"), [("noise", 3), ("data", 3), ("none", 1)])
def test_quantiles_of_a_preferred_end(prefer: str, power: int) -> None:
    sampler = Quantile.model_validate({"prefer": prefer})
    expected = 1 - (1 - AT) ** power if prefer == "noise" else AT**power
    # the quantile of 1 - u^3 at p is 1 - (1 - p)^3, and that of u^3 is p^3
    torch.testing.assert_close(draws(sampler).quantile(AT), expected, rtol=0, atol=0.02)


def test_quantiles_of_the_logit_normal_are_those_of_sorted_draws() -> None:
    """ai-toolkit sorts 1000 draws of 1 - sigmoid(n) from noise to data, and takes the one at index 1000 u^3."""
    table = torch.sort(1 - torch.randn(1000, generator=torch.Generator().manual_seed(0)).sigmoid(), descending=True)[0]
    u = torch.rand(20000, generator=torch.Generator().manual_seed(1))
    theirs = table[(u**3 * 1000).long().clamp(max=999)]
    ours = draws(Quantile(of="logit_normal", prefer="noise"))
    torch.testing.assert_close(ours.quantile(AT), theirs.quantile(AT), rtol=0, atol=0.03)


def test_a_shift_may_be_placed_in_a_range() -> None:
    """sd-scripts' SD3 script shifts before it places the times between min_timestep and max_timestep."""
    plain = Shifted(shift=3.0)(StepRng(1, 2, [0, 1, 2]), PATH)
    placed = Shifted(shift=3.0, min=200, max=600)(StepRng(1, 2, [0, 1, 2]), PATH)
    torch.testing.assert_close(placed, 0.2 + 0.4 * plain)
