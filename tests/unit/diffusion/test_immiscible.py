"""Immiscible noise: the nearest of several draws."""

from __future__ import annotations

import torch

from lorasmith.core.rng import StepRng
from lorasmith.diffusion.noise.immiscible import Immiscible

SHAPE = (6, 4, 8, 8)


def drawn(candidates: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)
    return x0, noise, Immiscible(candidates=candidates)(noise, x0, StepRng(7, 2, list(range(6))))


def test_the_draw_is_the_nearest_of_all() -> None:
    x0, noise, chosen = drawn(5)
    others = StepRng(7, 2, list(range(6))).normal("immiscible", (4, *SHAPE[1:]))
    every = torch.cat([noise[:, None], others], 1)
    for sample in range(6):
        distances = [(draw - x0[sample]).norm() for draw in every[sample]]
        best = min(range(5), key=lambda i: distances[i])
        assert torch.equal(chosen[sample], every[sample, best])


def test_more_candidates_come_nearer() -> None:
    far, near = ((chosen - x0).flatten(1).norm(dim=1) for x0, _, chosen in (drawn(2), drawn(32)))
    assert bool((near < far).all())
