"""What came out of a sweep: results.csv, results.json, and one picture of all runs' last previews."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lorasmith.core.store import write_text, write_with
from lorasmith.imaging.grid import grid
from lorasmith.training.output.report.pictures import prompts_of
from lorasmith.training.sweep.axes import label
from lorasmith.training.sweep.jobs import Job

COMPARISON = "comparison.png"


def row(job: Job) -> dict[str, Any]:
    """A run as one line: its values, and what is known of it."""
    record = job.record()
    validation = record.points("validation", "loss") if record else []
    ends = record.of("end") if record else []
    file = ends[-1].get("file") if ends else None
    return {
        "run": job.name,
        "values": job.values,
        "state": job.state,
        "loss": record.last_loss() if record else None,
        "validation_loss": validation[-1][1] if validation else None,
        "steps": record.steps if record else 0,
        "seconds": round(record.seconds, 2) if record else None,
        "file": str(job.folder / file) if file else None,
        "message": job.message,
    }


def write(folder: Path, jobs: Sequence[Job]) -> str | None:
    """results.csv and results.json, as far as the runs have come; returns the name of the best."""
    rows = [row(job) for job in jobs]
    best = best_of(rows)
    text = io.StringIO()
    keys = list(jobs[0].values) if jobs else []
    rest = ["state", "loss", "validation_loss", "steps", "seconds", "file"]
    table = csv.writer(text)
    table.writerow(["run", *keys, *rest])
    table.writerows([r["run"], *(r["values"][k] for k in keys), *(r[k] for k in rest)] for r in rows)
    write_text(folder / "results.csv", text.getvalue())
    write_text(folder / "results.json", json.dumps({"runs": rows, "best": best, "cache": cache(jobs)}, indent=1))
    return best


def best_of(rows: Sequence[dict[str, Any]]) -> str | None:
    """The finished run with the lowest validation loss. Training losses are of other images each, and say nothing."""
    known = [r for r in rows if r["state"] == "finished" and r["validation_loss"] is not None]
    return min(known, key=lambda r: r["validation_loss"])["run"] if known else None


def line(job: Job) -> str:
    """How a run ended, in a line."""
    found = row(job)
    told = [job.state]
    for key, text in (("loss", "loss"), ("validation_loss", "validation loss")):
        if found[key] is not None:
            told.append(f"{text} {found[key]:.4f}")
    if job.state == "failed":
        told += [job.message, f"see {job.log}"]
    return f"{label(job.values)}: {', '.join(told)}"


def cache(jobs: Sequence[Job]) -> dict[str, dict[str, int]]:
    """How much of the caches was found and how much was made, over all runs."""
    total = {sort: {"found": 0, "made": 0} for sort in ("latents", "texts")}
    for job in jobs:
        record = job.record()
        for sort, counts in total.items():
            for key in counts:
                counts[key] += int((record.summary_value("data", "cache", sort, key) if record else 0) or 0)
    return total


def compare(folder: Path, jobs: Sequence[Job]) -> Path | None:
    """The last previews of all runs, one row each under the base model's; None if there are none."""
    rows: list[list[Image.Image]] = []
    labels: list[str] = []
    prompts: list[str] = []
    for job in jobs:
        record = job.record()
        events = record.of("preview") if record else []
        files = [job.folder / name for name in events[-1].get("images") or []] if events else []
        if not files or not all(file.is_file() for file in files):
            continue
        base = [job.folder / "previews" / "base" / file.name for file in files]
        if not rows and all(file.is_file() for file in base):
            rows.append([opened(file) for file in base])
            labels.append("base")
        prompts = prompts or prompts_of(events[-1])
        rows.append([opened(file) for file in files])
        labels.append(label(job.values, "\n"))
    if not rows:
        return None
    sheet = grid(rows, row_labels=labels, column_labels=prompts)
    write_with(folder / COMPARISON, lambda path: sheet.save(path, "PNG"))
    return folder / COMPARISON


def opened(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        return picture.convert("RGB")
