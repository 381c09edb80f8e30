"""Schedules, targets and weights beside diffusers' own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorasmith.diffusion.losses.huber import Huber
from lorasmith.diffusion.losses.smooth_l1 import SmoothL1
from lorasmith.diffusion.prediction import Epsilon, VPrediction
from lorasmith.diffusion.schedule import NoiseSchedule
from lorasmith.diffusion.weightings.debiased import Debiased
from lorasmith.diffusion.weightings.min_snr import MinSnr
from lorasmith.diffusion.weightings.v_like import VLike
from lorasmith.diffusion.weightings.v_scale import VScale

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
EVERY = torch.arange(1000)


def theirs(**options: object):
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    return DDPMScheduler(**{**SD, **options})  # type: ignore[arg-type]


def tensors() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(5, 4, 8, 8, generator=generator) for _ in range(2))
    return x0, noise, torch.tensor([0, 7, 400, 998, 999])


@pytest.mark.parametrize("terminal", [False, True])
def test_schedule(terminal: bool) -> None:
    ours = NoiseSchedule.scaled_linear()
    ours = ours.zero_terminal_snr() if terminal else ours
    scheduler = theirs(rescale_betas_zero_snr=terminal)
    torch.testing.assert_close(ours.alphas_cumprod, scheduler.alphas_cumprod, atol=2e-6, rtol=1e-5)
    x0, noise, t = tensors()
    torch.testing.assert_close(ours.add_noise(x0, noise, t), scheduler.add_noise(x0, noise, t), atol=2e-4, rtol=1e-4)
    assert (float(ours.alphas_cumprod[-1]) == 0) == terminal


def test_linear_schedule() -> None:
    scheduler = theirs(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    torch.testing.assert_close(NoiseSchedule.linear().alphas_cumprod, scheduler.alphas_cumprod, atol=2e-6, rtol=1e-4)


def test_targets() -> None:
    x0, noise, t = tensors()
    velocity = theirs().get_velocity(x0, noise, t)
    schedule = NoiseSchedule.scaled_linear()
    torch.testing.assert_close(VPrediction().target(x0, noise, t, schedule), velocity, atol=1e-5, rtol=1e-4)
    assert Epsilon().target(x0, noise, t, schedule) is noise


@pytest.mark.parametrize("prediction", [Epsilon(), VPrediction()], ids=lambda p: p.kind)
def test_x0_is_what_a_sampler_takes_it_for(prediction: Epsilon | VPrediction) -> None:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler = DDIMScheduler(**SD, prediction_type=prediction.kind, clip_sample=False)  # type: ignore[arg-type]
    scheduler.set_timesteps(1000)
    x_t, output, _ = tensors()
    for t in (0, 300, 999):
        expected = scheduler.step(output, t, x_t).pred_original_sample
        ours = prediction.x0(output, x_t, torch.full((5,), t), NoiseSchedule.scaled_linear())
        torch.testing.assert_close(ours, expected, atol=1e-3, rtol=1e-4)


def test_snr_weights_of_epsilon() -> None:
    from diffusers.training_utils import compute_snr

    schedule = NoiseSchedule.scaled_linear()
    snr = compute_snr(theirs(), EVERY)
    torch.testing.assert_close(schedule.snr(EVERY), snr, atol=0, rtol=2e-4)
    for gamma in (1.0, 5.0):
        weight = torch.minimum(snr, torch.full_like(snr, gamma)) / snr
        torch.testing.assert_close(MinSnr(gamma=gamma)(EVERY, schedule, Epsilon()), weight, atol=0, rtol=2e-4)
    debiased = 1 / snr.clamp(max=1000).sqrt()
    torch.testing.assert_close(Debiased()(EVERY, schedule, Epsilon()), debiased, atol=0, rtol=2e-4)
    assert bool((VScale()(EVERY, schedule, Epsilon()) == 1).all())


def test_snr_weights_of_v() -> None:
    """min-SNR as diffusers' training scripts have it; the others from what they mean."""
    from diffusers.training_utils import compute_snr

    schedule = NoiseSchedule.scaled_linear()
    snr = compute_snr(theirs(), EVERY)
    weight = torch.stack([snr, 5.0 * torch.ones_like(snr)], dim=1).min(dim=1)[0] / (snr + 1)
    torch.testing.assert_close(MinSnr()(EVERY, schedule, VPrediction()), weight, atol=0, rtol=2e-4)
    like_epsilon = VScale()(EVERY, schedule, VPrediction())
    torch.testing.assert_close(like_epsilon, theirs().alphas_cumprod, atol=0, rtol=2e-3)
    torch.testing.assert_close(
        VLike(strength=0.5)(EVERY, schedule, VPrediction()), 1 + 0.5 / like_epsilon, atol=0, rtol=1e-4
    )


def test_snr_weights_follow_a_zero_terminal_schedule() -> None:
    """sd-scripts keeps the SNRs of the schedule before; diffusers and we take those of the schedule in use."""
    from diffusers.training_utils import compute_snr

    schedule = NoiseSchedule.scaled_linear().zero_terminal_snr()
    snr = compute_snr(theirs(rescale_betas_zero_snr=True), EVERY[:990])
    expected = torch.minimum(snr, torch.full_like(snr, 5.0)) / (snr + 1)
    torch.testing.assert_close(MinSnr()(EVERY[:990], schedule, VPrediction()), expected, atol=1e-5, rtol=5e-3)
    assert float(MinSnr()(EVERY[-1:], schedule, VPrediction())) == 0


def test_huber_near_and_far() -> None:
    """Against torch's own losses, where the pseudo-Huber forms meet them."""
    schedule, t = NoiseSchedule.scaled_linear(), torch.zeros(1, dtype=torch.int64)
    d = torch.linspace(-1e-2, 1e-2, 101).view(1, 1, 1, -1).double()
    zero = torch.zeros_like(d)
    wide = Huber(c=10.0, schedule="constant")(d, zero, t, schedule)
    torch.testing.assert_close(wide, torch.nn.functional.mse_loss(d, zero, reduction="none"), atol=1e-9, rtol=1e-4)
    far = torch.linspace(50, 100, 11).view(1, 1, 1, -1).double()
    narrow = SmoothL1(c=1e-4, schedule="constant")(far, torch.zeros_like(far), t, schedule)
    l1 = torch.nn.functional.l1_loss(far, torch.zeros_like(far), reduction="none")
    torch.testing.assert_close(narrow, 2 * l1, atol=0, rtol=1e-4)


def test_huber_width_over_t() -> None:
    schedule, c = NoiseSchedule.scaled_linear(), 0.1
    abar = theirs().alphas_cumprod
    sigma = ((1 - abar) / abar) ** 0.5
    widths = {
        "constant": torch.full((1000,), c),
        "exponential": c ** (EVERY / 1000),
        "snr": (1 - c) / (1 + sigma) ** 2 + c,
    }
    for name, expected in widths.items():
        width = Huber(c=c, schedule=name).width(EVERY, schedule)  # type: ignore[arg-type]
        torch.testing.assert_close(width, expected.float(), atol=1e-5, rtol=1e-4)
        doubled = Huber(c=c, scale=2.0, schedule=name).width(EVERY, schedule)  # type: ignore[arg-type]
        torch.testing.assert_close(doubled, 2 * width)
