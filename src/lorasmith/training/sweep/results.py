"""The results of a sweep: results.csv, results.json, and a grid of the last previews of all runs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lorasmith.core.store import write_text, write_with
from lorasmith.imaging.grid import grid
from lorasmith.training.output.best import HeldOutLoss, losses_by_step
from lorasmith.training.output.report.pictures import prompts_of
from lorasmith.training.sweep.axes import label
from lorasmith.training.sweep.jobs import Job
from lorasmith.training.sweep.rows import keys_of

COMPARISON = "comparison.png"
COLUMNS = ("state", "loss", "validation_loss", "best_loss", "best_step", "steps", "seconds", "file", "best_file")
"""Columns of results.csv after the run and its values."""


def result_row(job: Job) -> dict[str, Any]:
    """The values and results of a run, as far as it has come."""
    row: dict[str, Any] = {
        "run": job.name,
        "values": job.values,
        "state": job.state,
        "loss": None,
        "validation_loss": None,
        "best_loss": None,
        "best_step": None,
        "steps": 0,
        "seconds": None,
        "file": None,
        "best_file": None,
        "message": job.message,
    }
    record = job.record()
    if record is None:
        return row

    row["loss"] = record.last_loss()
    row["steps"] = record.steps
    row["seconds"] = round(record.seconds, 2)
    validation = record.points("validation", "loss")
    if validation:
        _, row["validation_loss"] = validation[-1]
    judged = record.of("best")
    if judged:
        row["best_loss"], row["best_step"] = judged[-1].get("loss"), judged[-1].get("best_step")
        if judged[-1].get("file"):
            row["best_file"] = str(job.folder / judged[-1]["file"])
    ends = record.of("end")
    if ends and ends[-1].get("file"):
        row["file"] = str(job.folder / ends[-1]["file"])
    return row


def write_results(folder: Path, jobs: Sequence[Job]) -> str | None:
    """Write results.csv and results.json, as far as the runs have come; returns the name of the best run."""
    rows = [result_row(job) for job in jobs]
    best = best_run(rows)
    keys = keys_of([job.values for job in jobs])

    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["run", *keys, *COLUMNS])
    for row in rows:
        values = [row["values"].get(key, "") for key in keys]
        table.writerow([row["run"], *values, *(row[column] for column in COLUMNS)])
    write_text(folder / "results.csv", text.getvalue())

    contents = {"runs": rows, "best": best, "ties": ties_of(best, jobs), "cache": count_cache_entries(jobs)}
    write_text(folder / "results.json", json.dumps(contents, indent=1))
    return best


def best_run(rows: Sequence[dict[str, Any]]) -> str | None:
    """The name of the finished run whose best weights have the lowest held-out loss; None if no run was validated.
    Training losses are not compared, since each is measured on other images."""
    candidates = [row for row in rows if row["state"] == "finished" and held_out_loss(row) is not None]
    if not candidates:
        return None
    return min(candidates, key=lambda row: held_out_loss(row) or 0.0)["run"]


def held_out_loss(row: Mapping[str, Any]) -> float | None:
    """The loss that runs are ranked by: of their best weights or, in runs that did not judge them, of the last ones."""
    best = row.get("best_loss")
    return row["validation_loss"] if best is None else best


def best_losses(job: Job) -> HeldOutLoss | None:
    """The held-out losses of a run's best weights, image by image; None if they were not judged."""
    record = job.record()
    judged = record.of("best") if record is not None else []
    if record is None or not judged:
        return None
    return losses_by_step(record.of("validation")).get(judged[-1].get("best_step", -1))


def ties_of(best: str | None, jobs: Sequence[Job]) -> list[str]:
    """The finished runs whose best weights are not distinguishable from those of the best run, by paired differences.

    Only runs with the same seed can be compared so: it decides which images are held out, and their noise.
    """
    best_jobs = [job for job in jobs if job.name == best]
    lowest = best_losses(best_jobs[0]) if best_jobs else None
    if lowest is None:
        return []
    config = best_jobs[0].config
    ties: list[str] = []
    for job in jobs:
        comparable = job.config.seed == config.seed and job.config.data == config.data
        if job.name == best or job.state != "finished" or not comparable:
            continue
        losses = best_losses(job)
        if losses is not None and not losses.is_worse_than(lowest):
            ties.append(job.name)
    return ties


def describe_end(job: Job) -> str:
    """A line about how a run has ended."""
    row = result_row(job)
    parts: list[str] = [job.state]
    if row["loss"] is not None:
        parts.append(f"loss {row['loss']:.4f}")
    if row["validation_loss"] is not None:
        parts.append(f"validation loss {row['validation_loss']:.4f}")
    if row["best_loss"] is not None and row["best_step"] != row["steps"]:
        parts.append(f"best {row['best_loss']:.4f} at step {row['best_step']}")
    if job.state == "failed":
        parts += [job.message, f"see {job.log}"]
    return f"{label(job.values)}: {', '.join(parts)}"


def count_cache_entries(jobs: Sequence[Job]) -> dict[str, dict[str, int]]:
    """How many cache entries all runs together have found and made, of latents and of texts."""
    totals = {sort: {"found": 0, "made": 0} for sort in ("latents", "texts")}
    for job in jobs:
        record = job.record()
        if record is None:
            continue
        for sort, counts in totals.items():
            for key in counts:
                counts[key] += int(record.summary_value("data", "cache", sort, key) or 0)
    return totals


def draw_comparison(folder: Path, jobs: Sequence[Job]) -> Path | None:
    """Write a grid of the last previews of all runs, a row for each, below the pictures of the base model; returns its
    path, or None if there are no previews."""
    rows: list[list[Image.Image]] = []
    row_labels: list[str] = []
    prompts: list[str] = []
    for job in jobs:
        event = last_preview(job)
        if event is None:
            continue
        files = [job.folder / name for name in event["images"]]
        if not rows:
            # all runs have the same base model, so its pictures are shown once
            base_files = [job.folder / "previews" / "base" / file.name for file in files]
            if all(file.is_file() for file in base_files):
                rows.append([read_picture(file) for file in base_files])
                row_labels.append("base")
        prompts = prompts or prompts_of(event)
        rows.append([read_picture(file) for file in files])
        row_labels.append(label(job.values, "\n"))

    if not rows:
        return None
    path = folder / COMPARISON
    comparison = grid(rows, row_labels=row_labels, column_labels=prompts)
    write_with(path, lambda temporary: comparison.save(temporary, "PNG"))
    return path


def last_preview(job: Job) -> dict[str, Any] | None:
    """The event of a run's last preview; None if there is none, or if a picture of it is missing."""
    record = job.record()
    events = record.of("preview") if record is not None else []
    if not events:
        return None
    names = events[-1].get("images") or []
    if not names or not all((job.folder / name).is_file() for name in names):
        return None
    return events[-1]


def read_picture(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        return picture.convert("RGB")
