"""What a run's events say that its owner should know."""

from __future__ import annotations

from lorasmith.training.output.report.record import Record

MOST_NAMES = 6


def warnings(record: Record) -> list[str]:
    """Sentences, most important first; empty for a run without incident."""
    return [*_unfinished(record), *_skipped(record), *_overfitted(record), *_risen(record)]


def _unfinished(record: Record) -> list[str]:
    if record.finished:
        return []
    return [f"The run is not finished. Continue it with: lorasmith train --resume {record.folder}"]


def _skipped(record: Record) -> list[str]:
    found: dict[str, list[dict]] = {}
    for event in record.of("skip"):
        found.setdefault(str(event.get("reason") or "unknown reason"), []).append(event)
    said = []
    for reason, events in found.items():
        names = list(dict.fromkeys(str(n) for e in events for n in e.get("images") or []))
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        images = f" Images in them: {', '.join(names[:MOST_NAMES])}{more}." if names else ""
        many = f"{len(events)} steps were" if len(events) > 1 else "1 step was"
        said.append(f"{many} left out: {reason}.{images}")
    return said


def _overfitted(record: Record) -> list[str]:
    """Validation that has clearly risen since its best point."""
    points = record.points("validation", "loss")
    if len(points) < 3:
        return []
    best_step, best = min(points, key=lambda p: p[1])
    last = points[-1][1]
    if last <= best * 1.03 or best_step == points[-1][0]:
        return []
    return [
        f"Validation loss was lowest at step {best_step:,.0f} ({best:.4f}) and is {last:.4f} now: from there on the "
        "run may have learned its images by heart. Compare the previews, or load an export of that time."
    ]


def _risen(record: Record) -> list[str]:
    """A loss that ends above its beginning."""
    losses = [y for _, y in record.points("step", "loss")]
    tenth = len(losses) // 10
    if tenth < 20:
        return []
    first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    if last <= first * 1.05:
        return []
    return [f"The loss rose from {first:.4f} to {last:.4f}. The learning rate may be too high."]
