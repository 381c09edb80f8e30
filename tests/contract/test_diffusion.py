"""What every timestep sampler, noise, loss, weighting and prediction promises, whoever adds it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.core.registry import registered
from lorasmith.core.rng import StepRng
from lorasmith.diffusion.losses import Loss
from lorasmith.diffusion.noise import Noise
from lorasmith.diffusion.prediction import Prediction
from lorasmith.diffusion.schedule import NoiseSchedule
from lorasmith.diffusion.timesteps import TimestepSampler
from lorasmith.diffusion.weightings import Weighting

PLAIN = NoiseSchedule.scaled_linear()
SCHEDULES = {"plain": PLAIN, "zero terminal": PLAIN.zero_terminal_snr(), "linear": NoiseSchedule.linear()}
SHAPE = (6, 4, 12, 20)
ENDS = torch.tensor([0, 1, 500, 998, 999, 999])

timesteps = pytest.mark.parametrize("sampler", registered(TimestepSampler).values(), ids=lambda c: c.__name__)
noises = pytest.mark.parametrize("noise", registered(Noise).values(), ids=lambda c: c.__name__)
losses = pytest.mark.parametrize("loss", registered(Loss).values(), ids=lambda c: c.__name__)
weightings = pytest.mark.parametrize("weighting", registered(Weighting).values(), ids=lambda c: c.__name__)
predictions = pytest.mark.parametrize("prediction", registered(Prediction).values(), ids=lambda c: c.__name__)
schedules = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def normal(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def rng(step: int = 3, samples: tuple[int, ...] = (0, 1, 2, 3, 4, 5), device: str = "cpu") -> StepRng:
    return StepRng(11, step, list(samples), device)


@timesteps
def test_timesteps_are_whole_numbers_of_the_schedule(sampler: type[TimestepSampler]) -> None:
    for schedule in (PLAIN, NoiseSchedule.scaled_linear(steps=40)):
        drawn = torch.cat([sampler()(rng(step), schedule) for step in range(200)])
        assert drawn.dtype == torch.int64
        assert 0 <= int(drawn.min()) < int(drawn.max()) < schedule.steps


@timesteps
def test_timesteps_follow_from_the_position(sampler: type[TimestepSampler]) -> None:
    whole = sampler()(rng(), PLAIN)
    parts = [sampler()(rng(samples=s), PLAIN) for s in ((0, 1), (2,), (3, 4, 5))]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, sampler()(rng(4), PLAIN))


@timesteps
def test_timesteps_refill_in_place(sampler: type[TimestepSampler]) -> None:
    """A captured graph redraws by `refill`; what it computes from the kept draws is what a fresh run computes."""
    frozen = rng().freeze()
    sampler()(frozen, PLAIN)
    frozen.refill(8, [0, 1, 2, 3, 4, 5])
    assert torch.equal(sampler()(frozen, PLAIN), sampler()(rng(8), PLAIN))


@noises
def test_noise_keeps_shape_and_is_about_normal(noise: type[Noise]) -> None:
    changed = noise()(normal(0), normal(1), rng())
    assert changed.shape == SHAPE
    assert changed.dtype == torch.float32
    assert 0.9 < float(changed.std()) < 1.1
    assert not torch.equal(changed, normal(0))


@noises
def test_noise_of_a_sample_does_not_depend_on_the_others(noise: type[Noise]) -> None:
    whole = noise()(normal(0), normal(1), rng())
    alone = noise()(normal(0)[2:3], normal(1)[2:3], rng(samples=(2,)))
    torch.testing.assert_close(whole[2:3], alone)
    assert not torch.allclose(whole, noise()(normal(0), normal(1), rng(4)))


@losses
@schedules
def test_loss_is_a_distance(loss: type[Loss], schedule: NoiseSchedule) -> None:
    a, b = normal(0), normal(1)
    value = loss()(a, b, ENDS, schedule)
    assert value.shape == SHAPE
    assert bool(value.isfinite().all())
    assert bool((value > 0).all())
    torch.testing.assert_close(value, loss()(b, a, ENDS, schedule))
    assert float(loss()(a, a, ENDS, schedule).abs().max()) == 0


@losses
@schedules
def test_loss_grows_with_the_error_and_has_finite_gradients(loss: type[Loss], schedule: NoiseSchedule) -> None:
    output = torch.zeros(SHAPE, requires_grad=True)
    near, far = (loss()(output, k * normal(1), ENDS, schedule) for k in (1, 2))
    assert bool((far > near).all())
    (gradient,) = torch.autograd.grad((near + loss()(output, output.detach(), ENDS, schedule)).sum(), output)
    assert bool(gradient.isfinite().all())
    assert bool((gradient * normal(1) < 0).all())


@weightings
@predictions
@schedules
def test_weights_are_finite_and_not_negative_at_every_t(
    weighting: type[Weighting], prediction: type[Prediction], schedule: NoiseSchedule
) -> None:
    t = torch.arange(schedule.steps)
    if weighting.predictions is not None and prediction().name not in weighting.predictions:
        with pytest.raises(LorasmithError, match=prediction().name):
            weighting()(t, schedule, prediction())
        return
    weights = weighting()(t, schedule, prediction())
    assert weights.shape == t.shape
    assert weights.dtype == torch.float32
    assert bool(weights.isfinite().all())
    assert bool((weights >= 0).all())
    torch.testing.assert_close(weights[ENDS], weighting()(ENDS, schedule, prediction()))


@predictions
@schedules
def test_x0_weight_is_the_factor_between_errors_of_the_output_and_of_x0(
    prediction: type[Prediction], schedule: NoiseSchedule
) -> None:
    """||output - target||^2 = w ||x0(output) - x0||^2, for any output."""
    t = torch.tensor([0, 1, 200, 500, 700, 900])
    x0, noise, output = (normal(seed).double() for seed in range(3))
    exact = NoiseSchedule(schedule.alphas_cumprod.double())
    x_t = exact.add_noise(x0, noise, t)
    error = (output - prediction().target(x0, noise, t, exact)).square().sum((1, 2, 3))
    error_of_x0 = (prediction().x0(output, x_t, t, exact) - x0).square().sum((1, 2, 3))
    torch.testing.assert_close(prediction().x0_weight(t, exact) * error_of_x0, error, rtol=1e-6, atol=0)


@predictions
@schedules
def test_prediction_gives_back_x0(prediction: type[Prediction], schedule: NoiseSchedule) -> None:
    x0, noise, t = normal(0), normal(1), torch.tensor([0, 1, 200, 500, 700, 900])
    target = prediction().target(x0, noise, t, schedule)
    x_t = schedule.add_noise(x0, noise, t)
    torch.testing.assert_close(prediction().x0(target, x_t, t, schedule), x0, atol=1e-4, rtol=1e-4)
    assert bool(prediction().x0(target, x_t, ENDS, schedule).isfinite().all())


@timesteps
def test_no_sampler_of_timesteps_asks_the_device_for_a_value(sampler: type[TimestepSampler]) -> None:
    """What they give has one shape and one type, so that the next test needs only one of them."""
    t = sampler()(rng(device="meta"), PLAIN.to("meta"))
    assert (t.device.type, t.shape, t.dtype) == ("meta", ENDS.shape, ENDS.dtype)


@noises
@losses
def test_nothing_asks_the_device_for_a_value(noise: type[Noise], loss: type[Loss]) -> None:
    """On `meta` there are no values: `.item()`, `if tensor` or a transfer would raise. A graph can then be captured."""
    draws, schedule = rng(device="meta"), PLAIN.to("meta")
    x0, plain = torch.empty(SHAPE, device="meta"), draws.normal("noise", SHAPE[1:])
    t = ENDS.to("meta")
    added = noise()(plain, x0, draws)
    for prediction in registered(Prediction).values():
        x_t = schedule.add_noise(x0, added, t)
        value = loss()(x_t, prediction().target(x0, added, t, schedule), t, schedule)
        for weighting in registered(Weighting).values():
            if weighting.predictions is not None and prediction().name not in weighting.predictions:
                continue  # refused, which another test checks
            value = value * weighting()(t, schedule, prediction()).view(-1, 1, 1, 1)
        assert value.device.type == "meta"
        assert value.shape == SHAPE
