"""A loss that is not a number never reaches the weights or a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from test_resume import assert_equal, events, settings

from lorasmith.core.errors import LorasmithError
from lorasmith.core.rng import StepRng
from lorasmith.data.dataset import Batch
from lorasmith.families.base import Family
from lorasmith.training.config import load_config
from lorasmith.training.hooks import Hook
from lorasmith.training.output import checkpoint
from lorasmith.training.run import Run
from lorasmith.training.session import train
from lorasmith.training.setup.build import build_run
from lorasmith.training.step.loop import fit
from lorasmith.training.step.objectives import StepResult
from lorasmith.training.step.objectives.denoising import Denoising


class Poisoned(Denoising):
    """The usual objective, but not a number at some steps (counted from 0)."""

    kind: Literal["poisoned"] = "poisoned"  # type: ignore[assignment]
    at: tuple[int, ...]

    def __call__(self, family: Family, batch: Batch, rng: StepRng) -> StepResult:
        result = super().__call__(family, batch, rng)
        factor = float("nan") if rng.step in self.at else 1.0
        return StepResult(result.loss * factor, result.per_sample, result.t)


class AbsurdStep(Hook):
    """Gives the learning rates a value at which finite gradients make infinite weights."""

    kind: Literal["absurd_step"] = "absurd_step"
    at: int

    def due(self, run: Run) -> bool:
        return run.state.step == self.at

    def act(self, run: Run) -> None:
        for group in run.optimizer.param_groups:
            group["base_lr"] = float("inf")


def poisoned(images: Path, output: Path, at: list[int]) -> dict[str, Any]:
    table = settings(images, output, steps=6, ema=0.0, objective={"kind": "poisoned", "at": at})
    table["export"] = {"every_steps": 1}
    return table


def test_bad_steps_are_left_out_and_their_images_named(pictures: Callable[..., Path], tmp_path: Path) -> None:
    images = pictures(5)
    run = build_run(load_config(poisoned(images, tmp_path / "run", [2, 3])))
    fit(run)
    run.adapters.detach()
    skips = [e for e in events(tmp_path / "run") if e["event"] == "skip"]
    assert [e["step"] for e in skips] == [3, 4]
    assert all(e["images"] and all(name.endswith(".png") for name in e["images"]) for e in skips)
    exports = {i: load_file(tmp_path / "run" / f"garp-{i:06d}.safetensors") for i in (2, 3, 4, 5)}
    assert_equal(exports[2], exports[3])
    assert_equal(exports[2], exports[4])
    assert any(not torch.equal(t, exports[5][name]) for name, t in exports[2].items())
    assert all(torch.isfinite(t).all() for t in exports[5].values())


def test_three_in_a_row_stop_the_run_with_the_last_good_files(pictures: Callable[..., Path], tmp_path: Path) -> None:
    images = pictures(5)
    run = build_run(load_config(poisoned(images, tmp_path / "run", [2, 3, 4])))
    with pytest.raises(LorasmithError, match=r"3 steps in a row .*\.png"):
        fit(run)
    run.adapters.detach()
    good = load_file(tmp_path / "run" / "garp-000002.safetensors")
    assert all(torch.isfinite(t).all() for t in good.values())
    assert not (tmp_path / "run" / "garp.safetensors").exists()


def test_a_finite_gradient_with_an_absurd_step_spoils_no_checkpoint(
    pictures: Callable[..., Path], tmp_path: Path
) -> None:
    """`keep` deletes nothing for the sake of weights that are not finite."""
    table = settings(pictures(3), tmp_path / "run", steps=6)
    table["checkpoint"] = {"every_steps": 1, "keep": 1}
    run = build_run(load_config(table))
    run.hooks = (*run.hooks, AbsurdStep(at=2))
    with pytest.raises(LorasmithError, match="after step 3 a trained weight is not a finite number"):
        fit(run)
    with pytest.raises(LorasmithError, match="after step 3"):
        checkpoint.save(run)
    run.adapters.detach()
    assert [path.name for path in checkpoint.checkpoints_in(run.folder)] == ["step-00000002"]


@pytest.mark.slow
def test_a_state_file_of_another_shape_is_left_out(pictures: Callable[..., Path], tmp_path: Path) -> None:
    """The checkpoint before is taken."""
    train(load_config(settings(pictures(3), tmp_path / "run", steps=3)))
    state_file = tmp_path / "run/checkpoints/step-00000003/state.json"
    good = json.loads(state_file.read_text())
    without_tensors = {**good, "optimizer": {"dict": [["state", {"tensor": "gone"}]]}}
    for content in ([], {}, {**good, "state": {"step": "x"}}, without_tensors, {**good, "files": {"../../x": "0"}}):
        state_file.write_text(json.dumps(content))
        newest, faults = checkpoint.find_newest(tmp_path / "run")
        assert newest is not None
        assert newest.name == "step-00000002"
        assert "state.json" in faults[0]
