"""What the files of a run folder contain: the run's events by kind, its summary and its config."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError
from lorasmith.core.lock_holder import holder_in

Point = tuple[float, float]
"""(step, value)"""
Event = dict[str, Any]

NUMBER = (int, float, type(None))
FIELD_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("file", "picture", "grid", "folder", "reason", "row", "id"), str),
    **dict.fromkeys(("loss", "base_loss", "grad_norm", "seconds", "samples", "epoch"), NUMBER),
    **dict.fromkeys(("lr", "by_t"), dict),
    **dict.fromkeys(("images", "prompts", "grids", "options"), list),
}
"""The types of fields, in events of all kinds. Fields that are not named may have any."""
TEXT_LISTS = ("images", "prompts", "grids")

PictureCache = dict[tuple[Path, float, int], str]
"""Pictures as `data:` URLs, by their file, its time and the size in the page."""

STEP_FIELDS = ("event", "step", "epoch", "loss", "grad_norm", "lr", "seconds", "samples")
"""Fields of each `step` event. Any other field of such an event is a term of the loss."""


@dataclass(frozen=True)
class Record:
    """The contents of a run folder."""

    folder: Path
    events: list[Event] = field(default_factory=list)
    """In the order in which they were written."""
    summary: dict[str, Any] = field(default_factory=dict)
    """summary.json"""
    config: str = ""
    """config.toml"""
    data: dict[str, Any] = field(default_factory=dict)
    """data.json"""
    earlier_pictures: PictureCache = field(default_factory=dict)
    """Pictures of an earlier report, which need not be encoded again."""
    pictures: PictureCache = field(default_factory=dict)
    """Pictures of this report."""
    under_way: bool = False
    """Whether a process is training it now."""

    @property
    def name(self) -> str:
        return str(self.summary_value("name") or self.folder.name)

    @property
    def finished(self) -> bool:
        return bool(self.of("end"))

    @property
    def steps(self) -> int:
        """Number of steps made so far."""
        # events are not in the order of steps where a listener wrote them late
        return max((event["step"] for event in self.events), default=0)

    @property
    def seconds(self) -> float:
        """Time spent in steps, over all sessions of the run."""
        seconds = [event["seconds"] for event in self.events if _is_number(event.get("seconds"))]
        return max(seconds, default=0.0)

    def of(self, kind: str) -> list[Event]:
        """Events of one kind, in order."""
        return [event for event in self.events if event.get("event") == kind]

    def points(self, kind: str, key: str) -> list[Point]:
        """(step, value) of a number in the events of one kind. Events without a finite value are left out."""
        return [
            (event["step"], event[key])
            for event in self.of(kind)
            if _is_number(event.get("step")) and _is_number(event.get(key))
        ]

    def learning_rates(self) -> dict[str, list[Point]]:
        """(step, learning rate) of each parameter group, by its name."""
        rates: dict[str, list[Point]] = {}
        for event in self.of("step"):
            for name, rate in (event.get("lr") or {}).items():
                if _is_number(rate):
                    rates.setdefault(name, []).append((event["step"], rate))
        return rates

    def loss_terms(self) -> dict[str, list[Point]]:
        """(step, value) of each term of the loss, by its name; empty if the loss has only one term."""
        fields = dict.fromkeys(field for event in self.of("step") for field in event)
        terms = {name: self.points("step", name) for name in fields if name not in STEP_FIELDS}
        return {name: points for name, points in terms.items() if points}

    def last_loss(self) -> float | None:
        """Mean of the last tenth of the losses; None if there are none."""
        losses = [loss for _, loss in self.points("step", "loss")]
        if not losses:
            return None
        tail = losses[-max(1, len(losses) // 10) :]
        return sum(tail) / len(tail)

    @property
    def best(self) -> Event | None:
        """The last judgement of which weights are the best (event `best`): `reason`, and `file` if they were kept."""
        judged = self.of("best")
        return judged[-1] if judged else None

    def summary_value(self, *keys: str) -> Any:
        """The value of the summary under nested keys; None if there is none."""
        value: Any = self.summary
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value


def read(folder: Path, pictures: PictureCache | None = None, *, stopped: bool = False) -> Record:
    """The record of a run folder. `pictures`: those of an earlier report. `stopped`: the process that has locked the
    folder, this one, makes no further step.

    Raises LorasmithError if the folder has no events.jsonl.
    """
    path = folder / "events.jsonl"
    if not path.is_file():
        raise LorasmithError(f"{folder}: holds no run (no events.jsonl in it)")
    # a folder of a run that was killed, or is under way, must give a report too
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    events = [event for event in map(parse_event, lines) if event is not None]
    summary = _read_table(folder / "summary.json")
    data = with_whole_paths(folder, _read_table(folder / "data.json"))
    return Record(
        folder,
        events,
        summary,
        _read_text(folder / "config.toml"),
        data,
        {} if pictures is None else pictures,
        under_way=not stopped and holder_in(folder) is not None,
    )


def with_whole_paths(folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    """data.json with the paths of its files, which are written from the folder of the run; older ones are absolute."""

    def whole(entry: Any) -> Any:
        if not isinstance(entry, dict) or not isinstance(entry.get("file"), str) or not entry["file"]:
            return entry
        return {**entry, "file": os.path.normpath(os.path.join(os.path.realpath(folder), entry["file"]))}

    lists = {
        key: [whole(entry) for entry in data[key]] for key in ("images", "remarks") if isinstance(data.get(key), list)
    }
    return {**data, **lists}


def clean_event(value: Any) -> Event | None:
    """An event without the fields that are not of the type that they have in a run; None if it is no event at all.

    A file may be damaged, of another version, or of somebody else: no reader of events need expect that.
    """
    if not isinstance(value, dict) or not isinstance(value.get("event"), str):
        return None
    step = value.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        return None
    cleaned: Event = {}
    for name, content in value.items():
        if isinstance(content, FIELD_TYPES.get(name, object)):
            is_text_list = name in TEXT_LISTS
            cleaned[name] = [item for item in content if isinstance(item, str)] if is_text_list else content
    return cleaned


def parse_event(line: str | bytes) -> Event | None:
    """The event of a line; None for a line that is none, such as one that was cut off when the process was killed."""
    try:
        # numbers that are not finite are no JSON; what is written for a page must not hold them
        return clean_event(json.loads(line, parse_constant=lambda _: None))
    except (ValueError, RecursionError):
        return None


def smooth(points: list[Point]) -> list[Point]:
    """An exponential moving average over about a twentieth of the points, corrected for the bias of its start."""
    decay = 1 - 1 / max(1.0, len(points) / 20)
    total = 0.0
    weight = 0.0
    averages = []
    for step, value in points:
        total = decay * total + value
        weight = decay * weight + 1
        averages.append((step, total / weight))
    return averages


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _read_table(path: Path) -> dict[str, Any]:
    table = _parse(_read_text(path))
    return table if isinstance(table, dict) else {}


def _parse(text: str) -> Any:
    """A JSON value; None for a line that was cut off when the process was killed."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
