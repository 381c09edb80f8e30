"""A loss that is not a number never reaches the weights or a file."""

from __future__ import annotations

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
