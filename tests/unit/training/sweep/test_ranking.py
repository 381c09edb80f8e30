"""Runs of a sweep are ranked by the held-out loss of their best weights, and ties are called ties."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from lorasmith.training.config import load_config
from lorasmith.training.output.events import Events
from lorasmith.training.sweep.jobs import Job
from lorasmith.training.sweep.results import result_row, ties_of, write_results

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
    assert write_results(tmp_path, [steady, overfits]) == "overfits"
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
    assert ties_of("best", jobs) == ["unclear"]
    write_results(tmp_path, jobs)
    assert json.loads((tmp_path / "results.json").read_text())["ties"] == ["unclear"]
    assert ties_of(None, jobs) == []


def test_runs_of_older_versions_are_ranked_by_their_last_validation(tmp_path: Path) -> None:
    jobs = [run_with(tmp_path, name, best=0, last=last) for name, last in (("a", 0.1), ("b", 0.05))]
    for job in jobs:
        path = job.folder / "events.jsonl"
        lines = [line for line in path.read_text().splitlines() if '"best"' not in line]
        path.write_text("\n".join(lines))
    assert write_results(tmp_path, jobs) == "b"
