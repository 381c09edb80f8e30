"""What `lorasmith inspect` says of the folder of a run, as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorasmith.training.output.report.health import health_of
from lorasmith.training.output.report.notes import warnings
from lorasmith.training.output.report.record import read
from lorasmith.training.output.report.scores import scores_in_words
from lorasmith.training.output.report.use import file_to_use, label_of


def inspect_run(folder: Path) -> dict[str, Any]:
    """How far a run is, whether it trained, its best weights, and what is wrong. Raises LorasmithError if the folder
    holds no run."""
    record = read(folder)
    health = health_of(record)
    file = file_to_use(record)
    best = record.best or {}
    findings = [{"severity": finding.severity, "text": finding.text} for finding in health.findings]
    findings += [{"severity": "warning", "text": text} for text in warnings(record)]
    return {
        "run": str(folder),
        "name": record.name,
        "state": "finished" if record.finished else "under way" if record.under_way else "not finished",
        "steps": record.steps,
        "base": record.summary_value("base", "source"),
        "adapter": record.summary_value("adapter", "kind"),
        "trigger": record.summary_value("trigger"),
        "file to use": None if file is None else str(folder / str(file["file"])),
        label_of(best).lower(): best.get("reason"),
        "four numbers": scores_in_words(record),
        "last loss": record.last_loss(),
        **health.facts,
        "findings": findings,
    }
