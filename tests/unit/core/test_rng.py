"""Draws follow from the position alone."""

import torch

from lorasmith.core.rng import StepRng, derive, python_random


def test_the_same_position_gives_the_same_draw_whatever_was_drawn_before() -> None:
    first = StepRng(1, 5, [0, 1])
    second = StepRng(1, 5, [0, 1])
    second.uniform("timesteps")
    second.normal("other", (7,))
    assert torch.equal(first.normal("noise", (4, 2, 2)), second.normal("noise", (4, 2, 2)))


def test_micro_batches_draw_what_the_whole_batch_draws() -> None:
    whole = StepRng(3, 9, [0, 1, 2, 3]).normal("noise", (4, 3, 3))
    parts = [StepRng(3, 9, s).normal("noise", (4, 3, 3)) for s in ([0], [1, 2], [3])]
    assert torch.equal(whole, torch.cat(parts))


def test_seed_purpose_step_and_sample_each_matter() -> None:
    seeds = {derive(s, p, t, i) for s in (0, 1) for p in ("noise", "latent") for t in (0, 1) for i in (0, 1)}
    assert len(seeds) == 16
    assert python_random(0, "caption", 1).random() != python_random(0, "caption", 2).random()


def test_refill_writes_another_step_into_the_same_tensors() -> None:
    rng = StepRng(1, 0, [0, 1]).freeze()
    noise, t = rng.normal("noise", (4,)), rng.integers("t", 0, 1000)
    rng.refill(7, [0, 1])
    fresh = StepRng(1, 7, [0, 1])
    assert rng.normal("noise", (4,)) is noise
    assert torch.equal(noise, fresh.normal("noise", (4,)))
    assert torch.equal(t, fresh.integers("t", 0, 1000))


def test_normals_are_normal() -> None:
    x = StepRng(0, 0, list(range(64))).normal("noise", (256,))
    assert abs(float(x.mean())) < 0.03
    assert abs(float(x.std()) - 1) < 0.03
