"""What a run is trained on: counts, buckets, and the images with their captions and the remarks on them."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from lorasmith.training.output.report.pictures import select_evenly, thumbnail_url
from lorasmith.training.output.report.record import Record
from lorasmith.training.output.report.tables import bucket_table, card, table

MOST_IMAGES = 60
"""Images that are shown; of more, some are left out evenly."""
MOST_REMARKS = 40
SIDE = 132
"""Longer side of a small picture in pixels; pages show it at half of that or more."""
SEVERITIES = ("serious", "warning", "note")


def data_section(record: Record) -> str:
    """Images, captions and buckets."""
    data = record.summary_value("data")
    cards = ""
    if isinstance(data, dict):
        # counts of 0, such as images without caption, need no row
        rest = {key: value for key, value in data.items() if key != "buckets" and value != 0}
        cards = card("", table(rest)) + card("Buckets", bucket_table(data.get("buckets") or []))
    content = f'<div class="columns">{cards}</div>' if cards else ""
    content += remark_list(record) + image_list(record)
    return f"<h2>Data</h2>{content}" if content else ""


def remarks_of(record: Record) -> list[dict[str, Any]]:
    """The remarks on the data, the most serious first."""
    remarks = [remark for remark in record.data.get("remarks") or [] if isinstance(remark, dict)]
    known = [remark for remark in remarks if remark.get("severity") in SEVERITIES and remark.get("text")]
    return sorted(known, key=lambda remark: SEVERITIES.index(remark["severity"]))


def remark_list(record: Record) -> str:
    """What was remarked on the data before the training."""
    remarks = remarks_of(record)
    if not remarks:
        return ""
    items = [
        f"<li>{escape(Path(str(remark.get('file'))).name)}: {escape(str(remark['text']))}</li>"
        for remark in remarks[:MOST_REMARKS]
    ]
    if len(remarks) > MOST_REMARKS:
        items.append(f"<li>and {len(remarks) - MOST_REMARKS:,} more</li>")
    serious = sum(remark["severity"] == "serious" for remark in remarks)
    title = f"{len(remarks):,} remarks" if len(remarks) > 1 else "1 remark"
    title += f", {serious:,} of them serious" if serious else ""
    opened = " open" if serious else ""
    return f'<details{opened}><summary>{title}</summary><ul class="remarks">{"".join(items)}</ul></details>'


def image_list(record: Record) -> str:
    """Small pictures of the images with their captions."""
    images = [image for image in record.data.get("images") or [] if isinstance(image, dict) and image.get("file")]
    if not images:
        return ""
    figures = [figure(record, image) for image in select_evenly(images, MOST_IMAGES)]
    title = f"{len(images):,} images with their captions"
    if len(images) > MOST_IMAGES:
        title += f"; {MOST_IMAGES} of them"
    return f'<details><summary>{title}</summary><div class="images">{"".join(figures)}</div></details>'


def figure(record: Record, image: dict[str, Any]) -> str:
    """One image with what is known of it."""
    path = Path(str(image["file"]))
    url = thumbnail_url(record, path, SIDE)
    name = escape(path.name)
    picture = f'<img alt="{name}" src="{url}">' if url else "<span>the file is not there any more</span>"
    captions = " · ".join(str(caption) for caption in image.get("captions") or [])
    facts = [str(image.get("repeats", 1)) + "×"]
    if isinstance(image.get("bucket"), list):
        facts.append("in " + "×".join(str(side) for side in image["bucket"]))
    if image.get("held_out"):
        facts = ["held out for validation"]
    return f'<div>{picture}<b>{name}</b><p>{escape(captions)}</p><p class="soft">{", ".join(facts)}</p></div>'
