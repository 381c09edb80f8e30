"""What is done to the noise."""

from __future__ import annotations

import torch
from torch import Tensor

from lorasmith.core.rng import StepRng
from lorasmith.diffusion.noise.input_perturbation import InputPerturbation
from lorasmith.diffusion.noise.multires import Multires
from lorasmith.diffusion.noise.offset import Offset

B, SHAPE = 64, (64, 4, 16, 24)


def rng() -> StepRng:
    return StepRng(0, 0, list(range(B)))


def normal(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def test_offset_is_one_number_a_channel_with_its_strength() -> None:
    added = Offset(strength=0.2)(torch.zeros(SHAPE), normal(1), rng())
    assert float(added.flatten(2).std(2).max()) == 0
    assert abs(float(added[..., 0, 0].std()) - 0.2) < 0.03


def test_random_strength_is_a_fraction_of_the_strength_for_each_sample() -> None:
    fixed, random = (Offset(strength=0.2, random=r)(torch.zeros(SHAPE), normal(1), rng()) for r in (False, True))
    ratio = (random / fixed)[..., 0, 0]
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    assert 0 <= float(ratio.min()) < 0.1
    assert 0.9 < float(ratio.max()) < 1


def test_adaptive_strength_follows_the_mean_of_the_latent() -> None:
    zero, x0 = torch.zeros(SHAPE), torch.ones(SHAPE) * torch.tensor([0.0, 1.0, -2.0, 0.5]).view(4, 1, 1)
    unit = Offset(strength=1.0)(zero, x0, rng())
    ratio = Offset(strength=0.1, adaptive=0.3)(zero, x0, rng()) / unit
    torch.testing.assert_close(ratio[0, :, 0, 0], torch.tensor([0.1, 0.4, 0.7, 0.25]))
    negative = Offset(strength=0.1, adaptive=-0.3)(zero, x0, rng()) / unit
    torch.testing.assert_close(negative[0, :, 0, 0].abs(), torch.tensor([0.1, 0.0, 0.0, 0.0]))


def test_multires_has_more_power_at_low_frequencies_and_unit_std() -> None:
    changed = Multires(discount=0.8)(normal(0), normal(1), rng())
    torch.testing.assert_close(changed.std((1, 2, 3)), torch.ones(B))
    coarse = [torch.nn.functional.avg_pool2d(x, 8).std() for x in (normal(0), changed)]
    assert float(coarse[1]) > 2 * float(coarse[0])


def test_multires_without_discount_left_is_white() -> None:
    changed = Multires(discount=0.0)(normal(0), normal(1), rng())
    coarse = [torch.nn.functional.avg_pool2d(x, 8).std() for x in (normal(0), changed)]
    assert abs(float(coarse[1]) / float(coarse[0]) - 1) < 0.1


def test_input_perturbation_widens_what_is_added_and_leaves_the_target() -> None:
    assert InputPerturbation.input_only
    assert not Offset.input_only
    changed = InputPerturbation(gamma=0.5)(normal(0), normal(1), rng())
    assert abs(float(changed.var()) - 1.25) < 0.02
    assert abs(float((changed - normal(0)).std()) - 0.5) < 0.01
