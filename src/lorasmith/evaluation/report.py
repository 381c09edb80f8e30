"""report.html of an evaluation: scores, pictures, and the pictures that are nearest to the training images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from lorasmith.core.package import assets
from lorasmith.core.quality import NUMBERS, Ranking
from lorasmith.evaluation.results import CandidateResult, Evaluation

SHARED_STYLE = assets() / "report" / "page.css"
STYLE = """
table.wide { border-collapse: collapse; width: 100%; table-layout: auto; }
table.wide th, table.wide td { text-align: left; padding: 6px 10px; vertical-align: top;
  border-bottom: 1px solid var(--line); width: auto; overflow-wrap: normal; word-break: normal; }
td img { display: inline-block; width: 128px; margin: 0 4px 4px 0; border-radius: 4px; }
.pair { display: inline-block; margin: 0 18px 14px 0; font-size: 13px; }
.pair img { width: 128px; margin-right: 4px; border-radius: 4px; }
"""
THUMBNAIL_SIDE = 192
MAX_PAIRS = 6
"""Pictures of each candidate that are shown beside their nearest training image."""
PICTURES_IN_ROW = 4
"""Pictures of each prompt that are shown, shared by all candidates; at least one each."""
SCORES = (
    ("text_alignment", "text alignment", "2.5 times the cosine with the prompt, at least 0"),
    ("text_cosine", "text cosine", "cosine with the prompt"),
    ("image_alignment", "image alignment", "mean cosine with all training images"),
)
"""Key, name and explanation of each column."""


def build_report(evaluation: Evaluation) -> str:
    """The whole page; pictures are embedded."""
    parts = [
        _heading(evaluation),
        _score_table(evaluation),
        _number_table(evaluation),
        _nearest_images(evaluation),
        _pictures(evaluation),
    ]
    style = SHARED_STYLE.read_text(encoding="utf-8") + STYLE
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>evaluation</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{style}</style></head>\n'
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _heading(evaluation: Evaluation) -> str:
    names = ", ".join(escape(row.name) for row in evaluation.rows)
    return (
        f'<h1>Evaluation</h1><p class="soft">{names}; measured by {escape(evaluation.scorer)} against '
        f"{len(evaluation.training)} training images</p>"
    )


def _score_table(evaluation: Evaluation) -> str:
    """A line for each candidate; the highest score of each column is bold."""
    numbers = [row.numbers() for row in evaluation.rows]
    # The best score of each column; with a single candidate nothing is marked.
    best: dict[str, float] = {}
    for key, _, _ in SCORES:
        known = [row_numbers[key] for row_numbers in numbers if row_numbers[key] is not None]
        if len(known) > 1:
            best[key] = max(known)

    heads = "".join(f'<th title="{escape(hint)}">{name}</th>' for _, name, hint in SCORES)
    lines = [f'<tr><th></th>{heads}<th title="">pictures</th></tr>']
    for row, row_numbers in zip(evaluation.rows, numbers, strict=True):
        cells = []
        for key, _, _ in SCORES:
            text = format_number(row_numbers[key])
            is_best = key in best and row_numbers[key] == best[key]
            cells.append(f"<td><b>{text}</b></td>" if is_best else f"<td>{text}</td>")
        cells.append(f"<td>{format_number(row_numbers['pictures'])}</td>")
        lines.append(f"<tr><th>{escape(row.name)}</th>{''.join(cells)}</tr>")
    note = (
        "Text alignment says whether pictures show their prompts, image alignment whether they show the concept. An "
        "increase of one often lowers the other: compare both, and look at the pictures."
    )
    return f'<table class="wide">{"".join(lines)}</table><p class="note">{note}</p>'


def _number_table(evaluation: Evaluation) -> str:
    """The four numbers of each candidate with their intervals; numbers that no candidate has are left out."""
    names = evaluation.measured
    if not names:
        return ""
    rankings = evaluation.rankings()
    ties = {ranking.number: (ranking.best, *ranking.ties) for ranking in rankings}
    heads = "".join(f'<th title="{escape(NUMBERS[name].meaning)}">{NUMBERS[name].label}</th>' for name in names)
    lines = [f"<tr><th></th>{heads}</tr>"]
    for row in evaluation.rows:
        cells = []
        for name in names:
            value = row.four_numbers.get(name)
            text = "–" if value is None else value.to_html()
            cells.append(f"<td><b>{text}</b></td>" if row.name in ties.get(name, ()) else f"<td>{text}</td>")
        lines.append(f"<tr><th>{escape(row.name)}</th>{''.join(cells)}</tr>")
    note = (
        "Means with 90 % bootstrap intervals over prompts and their seeds (over images, for losses). Likeness and text "
        "are better the higher they are, copying and drift the lower. Drift is measured against the base alone at the "
        "same seeds, on prompts without the concept and on class images, if there are any."
    )
    return f'<table class="wide">{"".join(lines)}</table><p class="note">{note}{_ranking_note(rankings)}</p>'


def _ranking_note(rankings: Sequence[Ranking]) -> str:
    """What bold numbers mean, and which of them are weak evidence; empty if nothing is ranked."""
    if not rankings:
        return ""
    note = " Bold: the best LoRA, and those that paired differences do not tell from it."
    weak = [NUMBERS[ranking.number] for ranking in rankings if ranking.weak]
    return note + (f" Weak evidence: {', '.join(f'{n.label} ({n.remedy})' for n in weak)}." if weak else "")


def _nearest_images(evaluation: Evaluation) -> str:
    """The pictures that are most similar to a training image, beside this image."""
    limit = evaluation.highest_training_similarity
    if limit is None:
        parts = ["<h2>Nearest to the training image</h2>"]
    else:
        note = f"The highest similarity of two training images is {limit:.4f}. A picture above it may be a copy."
        parts = [f'<h2>Nearest to a training image</h2><p class="note">{note}</p>']
    for row in evaluation.rows:
        parts.append(f"<h3>{escape(row.name)}</h3>")
        for near in row.measurement.nearest[:MAX_PAIRS]:
            training = evaluation.training[near.training]
            picture = embed_thumbnail(row.pictures[near.picture].path)
            mark = " <b>above</b>" if limit is not None and near.cosine > limit else ""
            label = f"{near.cosine:.4f}{mark}, {escape(training.name)}"
            parts.append(f'<div class="pair">{picture}{embed_thumbnail(training)}<br>{label}</div>')
    return "".join(parts)


def _pictures(evaluation: Evaluation) -> str:
    """A line for each prompt and a column for each candidate, with the first pictures and their scores."""
    # With more candidates each cell has fewer pictures, so that the table stays readable.
    per_cell = max(1, PICTURES_IN_ROW // len(evaluation.rows))
    by_prompt = [row.by_prompt() for row in evaluation.rows]
    prompts = dict.fromkeys(prompt for indices in by_prompt for prompt in indices)
    heads = "".join(f"<th>{escape(row.name)}</th>" for row in evaluation.rows)
    lines = [f"<tr><th>prompt</th>{heads}</tr>"]
    for prompt in prompts:
        cells = []
        for row, indices in zip(evaluation.rows, by_prompt, strict=True):
            cells.append(f"<td>{_picture_cell(row, indices.get(prompt, []), per_cell)}</td>")
        lines.append(f"<tr><td>{escape(prompt) or 'unknown prompt'}</td>{''.join(cells)}</tr>")
    return f'<h2>Pictures</h2><table class="wide">{"".join(lines)}</table>'


def _picture_cell(row: CandidateResult, indices: list[int], limit: int) -> str:
    """The first pictures of a prompt, and the scores of all of its pictures."""
    if not indices:
        return ""
    thumbnails = "".join(embed_thumbnail(row.pictures[index].path) for index in indices[:limit])
    numbers = row.numbers(indices)
    text, image = format_number(numbers["text_alignment"]), format_number(numbers["image_alignment"])
    return f"{thumbnails}<br><small>text {text}, image {image}</small>"


def format_number(value: float | int | None) -> str:
    """A float with four decimals, an integer, or a dash for None."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def embed_thumbnail(path: Path) -> str:
    """An `img` element that contains a small copy of the picture."""
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=82)
    # an embedded picture keeps the report in one file
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(path.name)}" title="{escape(path.name)}" src="data:image/webp;base64,{data}">'
