"""The four numbers of a run at its exports, as the hook `scores` measured them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lorasmith.core.quality import NUMBERS, Numbers, interval_from_json
from lorasmith.training.output.report.record import Event, Record

MOST_ROWS = 20
"""The newest measurements that are shown."""


def numbers_in(event: Event) -> Numbers:
    """The numbers of an event `scores`, in the order of tables."""
    content = event.get("numbers")
    table = content if isinstance(content, dict) else {}
    return {name: interval_from_json(table[name]) for name in NUMBERS if name in table}


def score_section(record: Record) -> str:
    """A line for each export that was measured, the newest first; the best weights are bold."""
    events = record.of("scores")
    measured = [(event["step"], numbers_in(event)) for event in reversed(events[-MOST_ROWS:])]
    names = [name for name in NUMBERS if any(numbers.get(name) for _, numbers in measured)]
    if not names:
        return ""
    heads = "".join(f'<th title="{escape(NUMBERS[name].meaning)}">{escape(NUMBERS[name].label)}</th>' for name in names)
    best = record.best or {}
    best_step, best_by = best.get("best_step"), "best" if best.get("by") == "likeness" else "best held-out loss"
    lines = [f"<tr><th>step</th>{heads}</tr>"]
    for step, numbers in measured:
        heading = f"<b>{step:,}, {best_by}</b>" if step == best_step else f"{step:,}"
        lines.append(f"<tr><th>{heading}</th>{cells_of(numbers, names)}</tr>")
    scorer = escape(str(events[-1].get("scorer") or "a scorer"))
    note = (
        f"Measured by {scorer}, with 90 % intervals over prompts and seeds, and over images for losses. Likeness and "
        "text are better the higher they are, copying and drift the lower."
    )
    table = f'<div class="card scroll"><table class="numbers">{"".join(lines)}</table></div>'
    return f'<h2>Four numbers</h2>{table}<p class="note">{note}</p>'


def cells_of(numbers: Numbers, names: Sequence[str]) -> str:
    """The cells of a line: these numbers with their intervals."""
    values = [numbers.get(name) for name in names]
    return "".join(f"<td>{'–' if value is None else value.to_html()}</td>" for value in values)


def scores_in_words(record: Record) -> str | None:
    """The newest numbers in one line, for `inspect`; None if there are none."""
    events = record.of("scores")
    if not events:
        return None
    numbers = numbers_in(events[-1])
    known = [f"{NUMBERS[name].label} {value:.3f}" for name, value in numbers.items() if value is not None]
    return f"step {events[-1]['step']:,}: {'; '.join(known)}"
