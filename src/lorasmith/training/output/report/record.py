"""What a run folder tells: its events by kind, its summary and its config."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError

Point = tuple[float, float]
Event = dict[str, Any]
STEP = ("event", "step", "epoch", "loss", "grad_norm", "lr", "seconds", "samples")
"""What the log tells of every step; all else in such a line is a part of the loss."""


@dataclass(frozen=True)
class Record:
    """A run as its folder tells it. `events` are in the order in which they were written."""

    folder: Path
    events: list[Event] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    config: str = ""

    def of(self, kind: str) -> list[Event]:
        """Events of one kind, in order."""
        return [event for event in self.events if event.get("event") == kind]

    def points(self, kind: str, key: str) -> list[Point]:
        """(step, value) of a number in the events of one kind; those without a finite value are left out."""
        return [(e["step"], e[key]) for e in self.of(kind) if _number(e.get("step")) and _number(e.get(key))]

    def rates(self) -> dict[str, list[Point]]:
        """The learning rate of each parameter group over the steps."""
        found: dict[str, list[Point]] = {}
        for event in self.of("step"):
            for name, value in (event.get("lr") or {}).items():
                if _number(value):
                    found.setdefault(name, []).append((event["step"], value))
        return found

    def parts(self) -> dict[str, list[Point]]:
        """(step, value) of each part of the loss, if it has any."""
        names = dict.fromkeys(key for event in self.of("step") for key in event if key not in STEP)
        return {name: points for name in names if (points := self.points("step", name))}

    def part(self, *keys: str) -> Any:
        """A value of the summary, or None."""
        value: Any = self.summary
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    @property
    def name(self) -> str:
        return str(self.part("name") or self.folder.name)

    @property
    def finished(self) -> bool:
        return bool(self.of("end"))

    @property
    def steps(self) -> int:
        """Steps made."""
        return int(max((e.get("step") or 0 for e in self.events), default=0))

    @property
    def seconds(self) -> float:
        """Time in steps, over all sessions of the run."""
        return max((e["seconds"] for e in self.events if _number(e.get("seconds"))), default=0.0)

    def last_loss(self) -> float | None:
        """Mean of the last tenth of the losses."""
        losses = [y for _, y in self.points("step", "loss")]
        tail = losses[-max(1, len(losses) // 10) :]
        return sum(tail) / len(tail) if tail else None


def read(folder: Path) -> Record:
    """The record of a run folder. Raises LorasmithError if there are no events in it."""
    path = folder / "events.jsonl"
    if not path.is_file():
        raise LorasmithError(f"{folder}: holds no run (no events.jsonl in it)")
    events = [e for e in map(_parsed, path.read_text(encoding="utf-8").splitlines()) if isinstance(e, dict)]
    summary = _parsed(_text(folder / "summary.json"))
    return Record(folder, events, summary if isinstance(summary, dict) else {}, _text(folder / "config.toml"))


def smoothed(points: list[Point]) -> list[Point]:
    """An exponential mean over about a twentieth of the points, without the pull of its start value."""
    keep = 1 - 1 / max(1.0, len(points) / 20)
    total, weight, result = 0.0, 0.0, []
    for x, y in points:
        total, weight = keep * total + y, keep * weight + 1
        result.append((x, total / weight))
    return result


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _parsed(text: str) -> Any:
    """A torn line, as a kill leaves it, is nothing."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
