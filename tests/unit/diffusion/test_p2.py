"""P2: the formula for epsilon, and the same weight of x0 errors for v."""

from __future__ import annotations

import torch

from lorasmith.diffusion.prediction import Epsilon, VPrediction
from lorasmith.diffusion.schedule import NoiseSchedule
from lorasmith.diffusion.weightings.p2 import P2

PATH = NoiseSchedule.scaled_linear()
T = torch.tensor([0, 100, 500, 999])


def test_epsilon_has_the_weight_of_the_paper() -> None:
    snr = PATH.snr(T)
    torch.testing.assert_close(P2()(T, PATH, Epsilon()), 1 / (1 + snr))
    torch.testing.assert_close(P2(k=2.0, gamma=0.5)(T, PATH, Epsilon()), (2 + snr) ** -0.5)


def test_errors_of_x0_have_the_same_weight_whatever_is_predicted() -> None:
    of_epsilon = P2()(T, PATH, Epsilon()) * Epsilon().x0_weight(T, PATH)
    torch.testing.assert_close(P2()(T, PATH, VPrediction()) * VPrediction().x0_weight(T, PATH), of_epsilon)
