"""report.html: one page that a person reads, top to bottom: how it went, what it looks like, what it was made of."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import lorasmith
from lorasmith.training.output.report import tables
from lorasmith.training.output.report.axes import Line
from lorasmith.training.output.report.notes import warnings
from lorasmith.training.output.report.pictures import attention, previews
from lorasmith.training.output.report.plot import loss_lines
from lorasmith.training.output.report.record import Record, smoothed
from lorasmith.training.output.report.svg import chart

ASSETS = Path(lorasmith.__file__).parent / "assets" / "report"


def page(record: Record) -> str:
    """The whole page; every part that the run has nothing for is left out."""
    parts = [head(record), tiles(record), warning_box(record), pictures(record), looks(record)]
    parts += [curves(record), data(record), made_of(record), settings(record), footer(record)]
    name = escape(record.name)
    style, script = ((ASSETS / file).read_text(encoding="utf-8") for file in ("page.css", "page.js"))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}: training report</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{style}</style></head>\n'
        f"<body><main>\n{chr(10).join(p for p in parts if p)}\n</main>\n<script>{script}</script></body></html>\n"
    )


def head(record: Record) -> str:
    """Name, what it is, and whether it is done."""
    planned = record.part("length", "steps")
    state = '<span class="done">finished</span>' if record.finished else '<span class="open">not finished</span>'
    of = f" of {planned:,}" if isinstance(planned, int) and not record.finished else ""
    base = record.part("base", "source")
    on = f" on {escape(str(base))}" if base else ""
    kind = escape(str(record.part("adapter", "kind") or "LoRA"))
    return f'<h1>{escape(record.name)}</h1><p class="soft">{kind}{on}, {state} after {record.steps:,}{of} steps</p>'


def tiles(record: Record) -> str:
    """The numbers that a person looks for first."""
    found: list[tuple[str, str]] = []
    loss = record.last_loss()
    if loss is not None:
        found.append((f"{loss:.4f}", "loss, mean of the last tenth"))
    validation, base = record.points("validation", "loss"), record.points("validation", "base_loss")
    if validation:
        than = f", base {base[-1][1]:.4f}" if base else ""
        found.append((f"{validation[-1][1]:.4f}", f"validation loss{than}"))
    epochs, views = record.part("length", "epochs"), record.part("length", "views_per_image")
    found.append((f"{record.steps:,}", f"steps{f', {epochs:g} epochs' if epochs else ''}"))
    if views:
        found.append((f"{views:g}", "views per image"))
    if record.seconds:
        found.append((tables.duration(record.seconds), f"in steps, {record.seconds / max(1, record.steps):.2f} s each"))
    boxes = "".join(f'<div class="tile"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in found)
    return f'<div class="tiles">{boxes}</div>'


def warning_box(record: Record) -> str:
    """What went otherwise than it should."""
    said = "".join(f"<li>{escape(text)}</li>" for text in warnings(record))
    return f'<div class="warnings"><ul>{said}</ul></div>' if said else ""


def pictures(record: Record) -> str:
    """The newest preview large, the earlier ones below it."""
    found = previews(record)
    if not found:
        return ""
    *earlier, (step, urls, prompts) = found
    listed = "".join(f"<li>{escape(p)}</li>" for p in prompts)
    parts = [
        "<h2>Previews</h2>",
        f'<ol class="prompts">{listed}</ol>' if listed else "",
        f'<div class="preview"><b>step {step:,}</b>{grids(step, urls)}</div>',
    ]
    if earlier:
        shown = "".join(f"<div><b>step {s:,}</b>{grids(s, u)}</div>" for s, u, _ in reversed(earlier))
        parts.append(f'<h2>Earlier previews, newest first</h2><div class="previews preview">{shown}</div>')
    return "".join(parts)


def grids(step: int, urls: Iterable[str]) -> str:
    """The grids of a step, one below the other."""
    return "".join(f'<img alt="previews at step {step}" src="{url}">' for url in urls)


def looks(record: Record) -> str:
    """Where the words look: the newest picture large, the earlier ones below it."""
    found = attention(record)
    if not found:
        return ""
    *earlier, (step, url) = found
    parts = [
        "<h2>Attention of the words</h2>",
        f'<div class="preview"><b>step {step:,}</b><img alt="attention at step {step}" src="{url}"></div>',
    ]
    shown = [f'<div><b>step {s:,}</b><img alt="attention at step {s}" src="{u}"></div>' for s, u in reversed(earlier)]
    if shown:
        parts.append(f'<details><summary>Earlier, newest first</summary><div class="previews preview">{"".join(shown)}')
        parts.append("</div></details>")
    return "".join(parts)


def curves(record: Record) -> str:
    """Loss, learning rates and gradient norm over the steps."""
    validation = "Validation images are never trained on." if record.of("validation") else ""
    norms = record.points("step", "grad_norm")
    styles = ("main", "second", "third", "base")
    rates = [
        Line(name, points, styles[min(i, len(styles) - 1)]) for i, (name, points) in enumerate(record.rates().items())
    ]
    parts = [
        Line(name, smoothed(points), styles[min(i, len(styles) - 1)])
        for i, (name, points) in enumerate(record.parts().items())
    ]
    drawn = [
        chart("Loss", loss_lines(record), note=validation),
        chart("Parts of the loss", parts, note="They add up to the loss; means over about a twentieth of the steps."),
        chart("Learning rate", rates, from_zero=True),
        chart("Gradient norm, before clipping", [Line("each step", norms, "raw"), Line("mean", smoothed(norms))]),
        chart("Validation loss by timestep", by_timestep(record)),
    ]
    return f'<h2>Curves</h2><div class="charts">{"".join(drawn)}</div>' if any(drawn) else ""


def by_timestep(record: Record) -> list[Line]:
    """One curve per fixed timestep of validation: the lowest, the middle and the highest."""
    names = sorted({t for e in record.of("validation") for t in e.get("by_t") or {}}, key=float)
    if len(names) < 2:
        return []
    chosen = dict.fromkeys([names[0], names[len(names) // 2], names[-1]])
    return [
        Line(
            f"t = {t}", [(e["step"], e["by_t"][t]) for e in record.of("validation") if e.get("by_t", {}).get(t)], style
        )
        for t, style in zip(chosen, ("main", "second", "third"), strict=False)
    ]


def data(record: Record) -> str:
    """Images, captions and buckets."""
    found = record.part("data")
    if not isinstance(found, dict):
        return ""
    buckets = tables.buckets(found.get("buckets") or [])
    rest = {key: value for key, value in found.items() if key != "buckets" and value != 0}
    cards = card("", tables.table(rest)) + (card("Buckets", buckets) if buckets else "")
    return f'<h2>Data</h2><div class="columns">{cards}</div>'


def made_of(record: Record) -> str:
    """Base, adapter, files and versions."""
    cards: Iterable[tuple[str, Any]] = (
        ("Base model", record.part("base")),
        ("Adapter", record.part("adapter")),
        ("Files", tables.files(record)),
        ("Versions", {**(record.part("versions") or {}), "device": record.part("device")}),
    )
    return f'<h2>Made of</h2><div class="columns">{"".join(card(n, tables.table(v)) for n, v in cards if v)}</div>'


def card(title: str, content: str) -> str:
    """A box; nothing if there is no content."""
    heading = f"<b>{escape(title)}</b>" if title else ""
    return f'<div class="card">{heading}{content}</div>' if content else ""


def settings(record: Record) -> str:
    """The config that runs the same again."""
    if not record.config:
        return ""
    text = escape(record.config)
    return (
        f"<h2>Settings</h2><details><summary>Everything the run used (config.toml)</summary><pre>{text}</pre></details>"
    )


def footer(record: Record) -> str:
    version = record.part("versions", "lorasmith") or ""
    return f"<footer>Written by Lorasmith {escape(str(version))} from events.jsonl in this folder.</footer>"
