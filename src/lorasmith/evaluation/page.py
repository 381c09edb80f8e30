"""report.html of an evaluation: numbers, pictures, and the pictures that are nearest to the training images."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

import lorasmith

if TYPE_CHECKING:
    from lorasmith.evaluation.run import Evaluation, Row

STYLE = Path(lorasmith.__file__).parent / "assets" / "report" / "page.css"
OWN_STYLE = """
table.wide { border-collapse: collapse; width: 100%; table-layout: auto; }
table.wide th, table.wide td { text-align: left; padding: 6px 10px; vertical-align: top;
  border-bottom: 1px solid var(--line); width: auto; overflow-wrap: normal; word-break: normal; }
td img { display: inline-block; width: 128px; margin: 0 4px 4px 0; border-radius: 4px; }
.pair { display: inline-block; margin: 0 18px 14px 0; font-size: 13px; }
.pair img { width: 128px; margin-right: 4px; border-radius: 4px; }
"""
THUMBNAIL = 192
MOST_PAIRS = 6
COLUMNS = (
    ("text_alignment", "text alignment", "2.5 times the cosine with the prompt, at least 0"),
    ("text_cosine", "text cosine", "cosine with the prompt"),
    ("image_alignment", "image alignment", "mean cosine with all training images"),
    ("pictures", "pictures", ""),
)


def page(found: Evaluation) -> str:
    """The whole page, with its pictures inside."""
    parts = [head(found), table(found), nearest(found), samples(found)]
    style = STYLE.read_text(encoding="utf-8") + OWN_STYLE
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>evaluation</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{style}</style></head>\n'
        f"<body><main>\n{chr(10).join(parts)}\n</main></body></html>\n"
    )


def head(found: Evaluation) -> str:
    """What was measured, and with what."""
    names = ", ".join(escape(row.name) for row in found.rows)
    return (
        f'<h1>Evaluation</h1><p class="soft">{names}; measured by {escape(found.scorer)} against '
        f"{len(found.training)} training images</p>"
    )


def table(found: Evaluation) -> str:
    """A line for each contestant; the best of each column is bold."""
    all_numbers = [row.numbers() for row in found.rows]
    heads = "".join(f'<th title="{escape(hint)}">{name}</th>' for _, name, hint in COLUMNS)
    lines = []
    for row, numbers in zip(found.rows, all_numbers, strict=True):
        cells = []
        for key, _, _ in COLUMNS:
            others = [n[key] for n in all_numbers if n[key] is not None]
            best = key != "pictures" and len(others) > 1 and numbers[key] == max(others)
            cells.append(f"<td>{'<b>' if best else ''}{number(numbers[key])}{'</b>' if best else ''}</td>")
        lines.append(f"<tr><th>{escape(row.name)}</th>{''.join(cells)}</tr>")
    note = (
        "Text alignment tells whether pictures show what their prompts say, image alignment whether they show the "
        "concept. The two pull against each other: compare both, and look at the pictures."
    )
    return f'<table class="wide"><tr><th></th>{heads}</tr>{"".join(lines)}</table><p class="note">{note}</p>'


def nearest(found: Evaluation) -> str:
    """The pictures that are most like a training image, beside it."""
    bar = found.likeness
    told = "" if bar is None else f" Two of the training images are up to {bar:.4f} alike."
    parts = [f'<h2>Nearest to a training image</h2><p class="note">{told} What is above that may be a copy.</p>']
    if bar is None:
        parts = ["<h2>Nearest to the training image</h2>"]
    for row in found.rows:
        pairs = []
        for near in row.measured.nearest[:MOST_PAIRS]:
            drawn, real = thumbnail(row.shown[near.picture].path), thumbnail(found.training[near.training])
            mark = " <b>above</b>" if bar is not None and near.cosine > bar else ""
            name = escape(found.training[near.training].name)
            pairs.append(f'<div class="pair">{drawn}{real}<br>{near.cosine:.4f}{mark}, {name}</div>')
        parts.append(f"<h3>{escape(row.name)}</h3>{''.join(pairs)}")
    return "".join(parts)


def samples(found: Evaluation) -> str:
    """Prompts down, contestants across; the first pictures of each and their numbers."""
    each = max(1, 4 // len(found.rows))
    by_prompt = [row.by_prompt() for row in found.rows]
    prompts = dict.fromkeys(prompt for places in by_prompt for prompt in places)
    heads = "".join(f"<th>{escape(row.name)}</th>" for row in found.rows)
    lines = []
    for prompt in prompts:
        cells = "".join(
            f"<td>{cell(row, places.get(prompt, []), each)}</td>"
            for row, places in zip(found.rows, by_prompt, strict=True)
        )
        lines.append(f"<tr><td>{escape(prompt) or 'no prompt known'}</td>{cells}</tr>")
    return f'<h2>Pictures</h2><table class="wide"><tr><th>prompt</th>{heads}</tr>{"".join(lines)}</table>'


def cell(row: Row, places: list[int], each: int) -> str:
    """Some pictures of one prompt."""
    if not places:
        return ""
    shown = "".join(thumbnail(row.shown[place].path) for place in places[:each])
    found = row.numbers(places)
    return f"{shown}<br><small>text {number(found['text_alignment'])}, image {number(found['image_alignment'])}</small>"


def number(value: float | int | None) -> str:
    """Four digits, a whole number, or a dash."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def thumbnail(path: Path) -> str:
    """A picture inside the page."""
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=82)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(path.name)}" title="{escape(path.name)}" src="data:image/webp;base64,{data}">'
