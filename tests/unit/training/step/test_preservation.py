"""Images that are trained to what the base gives: the target is its output, and the adapter goes back to nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lorasmith.core.rng import StepRng
from lorasmith.training.config import load_config
from lorasmith.training.run import Run
from lorasmith.training.setup.build import build_run
from lorasmith.training.step.batches import prepare_batch

Make = Callable[..., Run]


@pytest.fixture
def make(pictures: Callable[..., Path], tmp_path: Path) -> Make:
    def build(**changes: Any) -> Run:
        folders = [pictures(2, name=name) for name in ("own", "others")]
        return build_run(
            load_config(
                {
                    "base": "tiny-sd",
                    "output": str(tmp_path / "run"),
                    "steps": 2,
                    "data": {
                        "subsets": [{"images": str(folders[0])}, {"images": str(folders[1]), "preserve": True}],
                        "resolution": 64,
                        "batch_size": 4,
                    },
                    "adapter": {"rank": 2, "layers": "attention"},
                    **changes,
                }
            )
        )

    return build


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_target_is_the_bases_output(make: Make, checkpointing: bool) -> None:
    run = make(gradient_checkpointing=checkpointing)
    (plan,) = run.dataset.epoch(0)
    batch = prepare_batch(run, run.dataset.load(plan))
    assert batch.preserve is not None
    kept = batch.preserve > 0
    assert kept.tolist() == ["others" in name for name in batch.names]

    def result() -> Any:
        return run.objective(run.family, batch, StepRng(0, 3, [0, 1, 2, 3]))

    fresh = result()
    # an adapter that changes nothing has nothing to learn there, but for rounding: the base's batch is another one
    assert fresh.per_sample[kept].tolist() == pytest.approx([0, 0], abs=1e-9)
    assert (fresh.per_sample[~kept] > 0).all()
    with torch.no_grad():
        for parameter in run.parameters:
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    changed = result()
    rng = StepRng(0, 3, [0, 1, 2, 3])
    assert batch.latents is not None
    assert batch.conditioning is not None
    x0 = run.family.latents(batch.latents, rng.normal("latent", tuple(batch.latents.mean.shape[1:])))
    x_t = run.family.path.add_noise(x0, rng.normal("noise", tuple(x0.shape[1:])), changed.t)
    with torch.no_grad():
        ours = run.family.predict(x_t, changed.t, batch.conditioning)
        with run.adapters.enabled(False):
            base = run.family.predict(x_t, changed.t, batch.conditioning)
    wanted = (ours - base).square().flatten(1).mean(1)
    assert changed.per_sample[kept].tolist() == pytest.approx(wanted[kept].tolist(), rel=1e-4)
    changed.loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in run.parameters)
