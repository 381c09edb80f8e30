"""The parts of the loss in the log: means over the whole step, however it is cut up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lorasmith.data.batch import BatchPlan
from lorasmith.training.config import load_config
from lorasmith.training.output.report.page import curve_section
from lorasmith.training.output.report.record import read
from lorasmith.training.run import Run
from lorasmith.training.setup.build import build_run
from lorasmith.training.step.batches import micro_batches, rank_share
from lorasmith.training.step.loop import fit, optimizer_step
from lorasmith.training.step.objectives.denoising import Denoising
from lorasmith.training.step.objectives.terms.attention_regularisation import AttentionRegularisation
from lorasmith.training.step.objectives.terms.evaluate import terms_by_name

GARP = Path(__file__).parents[4] / "src/lorasmith/assets/garp"
PART = {"kind": "attention_regularisation", "weight": 0.5}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "masks").mkdir()
    for i, image in enumerate(sorted(GARP.glob("*.png"))[:5]):
        mask = Image.new("L", Image.open(image).size)
        mask.paste(255, (0, 0, mask.width // 2, 20 * i + 10))
        mask.save(tmp_path / "masks" / image.name)
    data = {"images": str(GARP), "part": [0, 5], "masks": str(tmp_path / "masks"), "resolution": 64, "batch_size": 5}
    table: dict[str, Any] = {
        "base": "tiny-sd",
        "output": str(tmp_path / "run"),
        "steps": 2,
        "data": data | {"transforms": [{"kind": "replace", "words": {"garp": "<a> <b>"}}]},
        "concepts": [{"words": ["<a>", "<b>"], "init": ["<rand-0.02>", "robot"]}],
        "objective": {"parts": [PART, PART | {"weight": 0.2, "full_identity": False}]},
    }
    return build_run(load_config(table))


def cut(plan: BatchPlan, *sizes: int) -> list[BatchPlan]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [BatchPlan(plan.views[end - size : end], plan.bucket) for end, size in zip(ends, sizes, strict=True)]


@pytest.mark.slow
def test_micro_batches_of_any_size_log_the_same(run: Run) -> None:
    (plan,) = run.dataset.epoch(0)
    run.optimizer.param_groups[:] = [g | {"lr": 0.0, "weight_decay": 0.0} for g in run.optimizer.param_groups]
    whole, pieces = (optimizer_step(run, cut(plan, *sizes), 0) for sizes in ((5,), (1, 3, 1)))
    names = ["denoising", "attention_regularisation", "attention_regularisation_2"]
    assert list(whole.loss_terms) == list(pieces.loss_terms) == names == list(run.objective.terms)
    assert float(pieces.loss_terms["denoising"]) == pytest.approx(float(whole.loss_terms["denoising"]), rel=1e-4)
    for outcome in (whole, pieces):
        assert float(sum(outcome.loss_terms.values(), torch.zeros(()))) == pytest.approx(float(outcome.loss), rel=1e-5)
    for name in names[1:]:
        single = []
        for batch, rng in micro_batches(run, rank_share(cut(plan, 1, 3, 1)), 0):
            single.append((len(batch.names), float(run.objective(run.family, batch, rng).parts[name])))
        assert len({value for _, value in single}) == 3
        wanted = sum(count * value for count, value in single) / 5
        assert float(pieces.loss_terms[name]) == pytest.approx(wanted, rel=1e-4)


def test_the_log_and_the_report_have_each_part(run: Run) -> None:
    fit(run)
    run.adapters.detach()
    lines = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    steps = [e for e in lines if e["event"] == "step"]
    names = run.objective.terms
    for step in steps:
        assert sum(step[name] for name in names) == pytest.approx(step["loss"], rel=1e-5)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run.events.close()
    scalars = EventAccumulator(str(run.folder / "tensorboard")).Reload().Tags()["scalars"]
    assert {f"step/{name}" for name in names} <= set(scalars)
    page = curve_section(read(run.folder))
    assert "Terms of the loss" in page
    assert "attention_regularisation_2" in page


def test_parts_of_one_kind_are_told_apart() -> None:
    parts = [AttentionRegularisation(), AttentionRegularisation(weight=0.5)]
    assert list(terms_by_name(parts)) == ["attention_regularisation", "attention_regularisation_2"]
    assert Denoising().terms == ()
