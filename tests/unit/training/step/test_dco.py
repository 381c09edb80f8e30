"""DCO: the loss of arXiv 2402.12004, scaled so that it begins with the gradient of the plain loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lorasmith.core.rng import StepRng
from lorasmith.training.config import load_config
from lorasmith.training.setup.build import build_run
from lorasmith.training.step.batches import prepare_batch
from lorasmith.training.step.objectives.dco import Dco
from lorasmith.training.step.objectives.denoising import Denoising


def test_the_formula() -> None:
    errors, base = torch.tensor([0.30, 0.10]), torch.tensor([0.29, 0.12])
    losses = Dco(beta=50.0).sample_losses(errors, lambda: base)
    by_hand = [-math.log(1 / (1 + math.exp(50 * d))) * 2 / 50 for d in (0.01, -0.02)]
    assert losses.tolist() == pytest.approx(by_hand, rel=1e-5)


def test_an_advance_over_the_base_weakens_the_gradient() -> None:
    errors = torch.tensor([0.2, 0.2, 0.2], requires_grad=True)
    Dco(beta=1000.0).sample_losses(errors, lambda: torch.tensor([0.2, 0.201, 0.21])).sum().backward()
    assert errors.grad is not None
    assert errors.grad.tolist() == pytest.approx([1.0, 2 / (1 + math.e), 2 / (1 + math.exp(10))], rel=1e-3)


def test_a_fresh_run_has_the_gradient_of_the_plain_loss(pictures: Callable[..., Path], tmp_path: Path) -> None:
    table = {
        "base": "tiny-sd",
        "output": str(tmp_path / "run"),
        "steps": 2,
        "data": {"images": str(pictures(2)), "resolution": 64, "batch_size": 2},
        "adapter": {"rank": 2, "layers": "attention"},
        "objective": {"kind": "dco", "weightings": ["min_snr"]},
    }
    run = build_run(load_config(table))
    assert isinstance(run.objective, Dco)
    (plan,) = run.dataset.epoch(0)
    gradients: list[list[torch.Tensor]] = []
    for objective in (run.objective, Denoising(weightings=run.objective.weightings)):
        batch = prepare_batch(run, run.dataset.load(plan))
        for parameter in run.parameters:
            parameter.grad = None
        objective(run.family, batch, StepRng(0, 3, [0, 1])).loss.backward()
        gradients.append([p.grad.clone() for p in run.parameters if p.grad is not None])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)
