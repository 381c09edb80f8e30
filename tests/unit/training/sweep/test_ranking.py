"""Runs of a sweep are ranked by the held-out loss of their best weights, and ties are called ties."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorasmith.core.errors import LorasmithError
from lorasmith.core.quality import Values, to_json
from lorasmith.training.config import load_config
from lorasmith.training.output.events import Events
from lorasmith.training.sweep.jobs import Job
from lorasmith.training.sweep.ranking import check_rank_by, rank_runs
from lorasmith.training.sweep.results import result_row, write_results

IMAGES = (0.10, 0.20, 0.15, 0.30)


def run_with(folder: Path, name: str, best: float, last: float, unevenness: float = 0.0, seed: int = 0) -> Job:
    """A finished run with its best weights at step 5 and its last ones at step 10."""
    output = folder / "runs" / name
    output.mkdir(parents=True)
    table: dict[str, Any] = {"base": "tiny-sd", "output": str(output), "seed": seed, "data": {"images": "x"}}
    events = Events(output, tensorboard=False)
    for step, level in ((5, best), (10, last)):
        # unevenness: some images become better, others worse
        by_image = [loss + level + unevenness * (-1) ** i for i, loss in enumerate(IMAGES)]
        events.write("validation", step, loss=sum(by_image) / 4, by_image=by_image)
    loss = sum(IMAGES) / 4 + best
    events.write("best", 10, file=f"{name}-best.safetensors", best_step=5, last_step=10, loss=loss, reason="")
    events.write("end", 10, seconds=1.0, file=f"{name}.safetensors")
    return Job({"optimizer.lr": name}, load_config(table), state="finished")


def test_a_run_that_overfits_is_ranked_by_its_best_weights(tmp_path: Path) -> None:
    overfits = run_with(tmp_path, "overfits", best=-0.05, last=0.1)
    steady = run_with(tmp_path, "steady", best=-0.02, last=-0.02)
    assert write_results(tmp_path, [steady, overfits]).best == "overfits"
    row = result_row(overfits)
    assert (row["best_step"], round(row["best_loss"], 4)) == (5, 0.1375)
    assert Path(row["best_file"]).name == "overfits-best.safetensors"
    with (tmp_path / "results.csv").open() as file:
        assert [line["best_step"] for line in csv.DictReader(file)] == ["5", "5"]


def test_runs_that_the_held_out_images_cannot_tell_apart_are_ties(tmp_path: Path) -> None:
    best = run_with(tmp_path, "best", best=-0.05, last=0)
    worse = run_with(tmp_path, "worse", best=-0.03, last=0)
    unclear = run_with(tmp_path, "unclear", best=-0.048, last=0, unevenness=0.01)
    # another seed holds other images out
    other = run_with(tmp_path, "other", best=-0.049, last=0, unevenness=0.01, seed=1)
    jobs = [worse, best, unclear, other]
    ranking = write_results(tmp_path, jobs)
    assert (ranking.best, ranking.ties, ranking.weak) == ("best", ["unclear"], False)
    # how far the others are behind, image by image
    assert set(ranking.behind) == {"worse", "unclear"}
    assert ranking.behind["worse"].mean == pytest.approx(0.02)
    assert ranking.behind["worse"].low > 0 > ranking.behind["unclear"].low
    written = json.loads((tmp_path / "results.json").read_text())
    assert (written["ties"], written["ranked_by"]) == (["unclear"], "loss")
    with (tmp_path / "results.csv").open() as file:
        verdicts = {line["run"]: line["verdict"] for line in csv.DictReader(file)}
    assert verdicts == {"best": "best", "worse": "behind", "unclear": "noise", "other": ""}
    assert rank_runs([]).best is None
    # a run that was ended early, or has failed, is never the best
    pruned = replace(best, state="pruned")
    assert rank_runs([worse, pruned]).best == "worse"


def test_runs_that_did_not_judge_their_weights_are_judged_by_the_same_rule(tmp_path: Path) -> None:
    """Those of older versions. Their last validation loss would rank the run that overfits last."""
    jobs = [
        run_with(tmp_path, name, best=best, last=last)
        for name, best, last in (("overfits", -0.05, 0.1), ("steady", 0.0, 0.0))
    ]
    for job in jobs:
        path = job.folder / "events.jsonl"
        lines = [line for line in path.read_text().splitlines() if '"best"' not in line]
        path.write_text("\n".join(lines) + "\n")
    ranking = write_results(tmp_path, jobs)
    assert (ranking.best, ranking.ties) == ("overfits", [])
    assert result_row(jobs[0])["best_step"] == 5

    # still older ones have only means
    for job in jobs:
        path = job.folder / "events.jsonl"
        path.write_text(path.read_text().replace("by_image", "other"))
    assert write_results(tmp_path, jobs).best == "overfits"
    assert result_row(jobs[0])["best_step"] == 5


def with_scores(job: Job, step: int, **means: float) -> Job:
    """Add the numbers of a step: four prompts, which differ more from each other than runs do."""
    events = Events(job.folder, tensorboard=False)
    numbers: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for name, mean in means.items():
        own = Values(tuple((mean + level, mean + level + 0.001) for level in (-0.3, 0.0, 0.1, 0.2)))
        numbers |= to_json({name: own.interval()})
        values[name] = own.to_json()
    events.write("scores", step, numbers=numbers, values=values)
    return job


def test_runs_are_ranked_by_a_number_of_their_best_weights(tmp_path: Path) -> None:
    like = with_scores(run_with(tmp_path, "like", best=0.0, last=0.1), 5, likeness=0.8, drift_pixels=0.2)
    # what its last weights are does not count
    with_scores(like, 10, likeness=0.1, drift_pixels=0.9)
    calm = with_scores(run_with(tmp_path, "calm", best=-0.05, last=0.1), 5, likeness=0.7, drift_pixels=0.1)
    unmeasured = run_with(tmp_path, "unmeasured", best=-0.05, last=0.1)
    jobs = [calm, like, unmeasured]
    ranking = write_results(tmp_path, jobs, "likeness")
    assert (ranking.best, ranking.ties) == ("like", [])
    assert ranking.behind["calm"].mean == pytest.approx(0.1)
    assert write_results(tmp_path, jobs, "drift_pixels").best == "calm"
    with (tmp_path / "results.csv").open() as file:
        rows = {line["run"]: line for line in csv.DictReader(file)}
    assert float(rows["like"]["likeness"]) == pytest.approx(0.8005)
    assert rows["unmeasured"]["likeness"] == ""


def test_what_cannot_be_ranked_by_is_told_before_any_run_starts() -> None:
    table: dict[str, Any] = {"base": "tiny-sd", "output": "x", "data": {"images": "x"}}
    config = load_config(table)
    check_rank_by("loss", config)
    with pytest.raises(LorasmithError, match='did you mean "likeness"'):
        check_rank_by("likenes", config)
    with pytest.raises(LorasmithError, match=r"the runs do not measure it. Add to the config: \[\[hooks\]\]"):
        check_rank_by("likeness", config)
    check_rank_by("likeness", load_config(table | {"hooks": [{"kind": "scores", "class_word": "dog"}]}))
