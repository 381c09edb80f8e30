"""The results of a sweep: results.csv, results.json, and a grid of the last previews of all runs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lorasmith.core.quality import NUMBERS, to_json
from lorasmith.core.store import write_text, write_with
from lorasmith.imaging.grid import grid
from lorasmith.training.output.report.pictures import prompts_of
from lorasmith.training.sweep.axes import label
from lorasmith.training.sweep.jobs import Job
from lorasmith.training.sweep.ranking import LOSS, RunRanking, best_mean, four_numbers, rank_runs
from lorasmith.training.sweep.rows import keys_of

COMPARISON = "comparison.png"
COLUMNS = ("state", "loss", "validation_loss", "best_loss", "best_step", "steps", "seconds", "file", "best_file")
"""Columns of results.csv after the run and its values."""
BEHIND = ("behind_the_best", "behind_low", "behind_high", "verdict")
"""Further columns: paired differences to the best run, and `best`, `noise` or `behind`."""


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
        "numbers": {},
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
    row["best_loss"], row["best_step"] = best_mean(record)
    if record.best is not None and record.best.get("file"):
        row["best_file"] = str(job.folder / record.best["file"])
    row["numbers"] = to_json(four_numbers(record))
    ends = record.of("end")
    if ends and ends[-1].get("file"):
        row["file"] = str(job.folder / ends[-1]["file"])
    return row


def write_results(folder: Path, jobs: Sequence[Job], rank_by: str = LOSS) -> RunRanking:
    """Write results.csv and results.json, as far as the runs have come; returns the ranking of the runs."""
    rows = [result_row(job) for job in jobs]
    ranking = rank_runs(jobs, rank_by)
    write_text(folder / "results.csv", table_of(rows, keys_of([job.values for job in jobs]), ranking))
    contents = {
        "runs": rows,
        "ranked_by": ranking.by,
        "best": ranking.best,
        "ties": ranking.ties,
        "behind_the_best": to_json(ranking.behind),
        "weak": ranking.weak,
        "cache": count_cache_entries(jobs),
    }
    write_text(folder / "results.json", json.dumps(contents, indent=1))
    return ranking


def table_of(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], ranking: RunRanking) -> str:
    """The content of results.csv. `keys`: what varies."""
    # numbers that no run has measured have no columns
    measured = [name for name in NUMBERS if any(row["numbers"].get(name) for row in rows)]
    text = io.StringIO()
    table = csv.writer(text)
    ends = [f"{name}{end}" for name in measured for end in ("", "_low", "_high")]
    table.writerow(["run", *keys, *COLUMNS, *BEHIND, *ends])
    for row in rows:
        values = [row["values"].get(key, "") for key in keys]
        numbers = [cell for name in measured for cell in interval_cells(row["numbers"].get(name))]
        cells = [row[column] for column in COLUMNS]
        table.writerow([row["run"], *values, *cells, *behind_cells(ranking, row["run"]), *numbers])
    return text.getvalue()


def interval_cells(interval: Mapping[str, float | None] | None) -> list[Any]:
    """Mean, low and high end; empty if a number was not measured."""
    return ["", "", ""] if interval is None else [interval["mean"], interval["low"], interval["high"]]


def behind_cells(ranking: RunRanking, run: str) -> list[Any]:
    """How far a run is behind the best one, with its interval, and what that means."""
    meaning = "best" if run == ranking.best else "noise" if run in ranking.ties else ""
    behind = ranking.behind.get(run)
    if behind is None:
        return ["", "", "", meaning]
    return [behind.mean, behind.low, behind.high, meaning or "behind"]


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
