"""report.html: one page about a run: how training went, what its pictures look like, what the run consists of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from lorasmith.core.package import assets
from lorasmith.training.output.report.axes import Line
from lorasmith.training.output.report.data import data_section
from lorasmith.training.output.report.explanations import CHARTS, HELD_OUT
from lorasmith.training.output.report.health import health_section
from lorasmith.training.output.report.notes import warnings
from lorasmith.training.output.report.pictures import attention_pictures, how_previews_are_drawn, previews
from lorasmith.training.output.report.plot import loss_lines
from lorasmith.training.output.report.record import Point, Record, smooth
from lorasmith.training.output.report.scores import score_section
from lorasmith.training.output.report.svg import chart
from lorasmith.training.output.report.tables import card, exported_files, format_duration, table
from lorasmith.training.output.report.use import use_section

ASSETS = assets() / "report"
STYLES = ("main", "second", "third", "base")
"""Line styles in the order in which curves get them; further curves get the last one."""


def page(record: Record) -> str:
    """The whole page. Sections for which the run has no data are left out."""
    sections = [
        heading(record),
        key_figures(record),
        warning_box(record),
        use_section(record),
        health_section(record),
        score_section(record),
        preview_section(record),
        attention_section(record),
        curve_section(record),
        data_section(record),
        component_section(record),
        settings_section(record),
        footer(record),
    ]
    body = "\n".join(section for section in sections if section)
    # everything is inside of the page, so that the file can be moved and sent
    style = (ASSETS / "page.css").read_text(encoding="utf-8")
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(record.name)}: training report</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{style}</style></head>\n"
        f"<body><main>\n{body}\n</main>\n<script>{script}</script></body></html>\n"
    )


def heading(record: Record) -> str:
    """Name, kind of adapter, base model, and how far the run is."""
    kind = escape(str(record.summary_value("adapter", "kind") or "LoRA"))
    base = record.summary_value("base", "source")
    base_text = f" on {escape(str(base))}" if base else ""
    steps = f"{record.steps:,}"
    if record.finished:
        state = '<span class="done">finished</span>'
    else:
        state = f'<span class="open">{"under way" if record.under_way else "not finished"}</span>'
        planned = record.summary_value("length", "steps")
        if isinstance(planned, int):
            steps += f" of {planned:,}"
    return f'<h1>{escape(record.name)}</h1><p class="soft">{kind}{base_text}, {state} after {steps} steps</p>'


def key_figures(record: Record) -> str:
    """The most important numbers of the run."""
    figures: list[tuple[str, str]] = []
    loss = record.last_loss()
    if loss is not None:
        figures.append((f"{loss:.4f}", "loss, mean of the last tenth"))

    validation = record.points("validation", "loss")
    base = record.points("validation", "base_loss")
    if validation:
        comparison = f", base {base[-1][1]:.4f}" if base else ""
        figures.append((f"{validation[-1][1]:.4f}", f"validation loss{comparison}"))

    epochs = record.summary_value("length", "epochs")
    figures.append((f"{record.steps:,}", f"steps, {epochs:g} epochs" if epochs else "steps"))
    views = record.summary_value("length", "views_per_image")
    if views:
        figures.append((f"{views:g}", "views per image"))
    if record.seconds:
        seconds_per_step = record.seconds / max(1, record.steps)
        figures.append((format_duration(record.seconds), f"in steps, {seconds_per_step:.2f} s each"))

    tiles = [f'<div class="tile"><b>{escape(n)}</b><span>{escape(meaning)}</span></div>' for n, meaning in figures]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def warning_box(record: Record) -> str:
    """What the user should know about problems of the run."""
    items = "".join(f"<li>{escape(text)}</li>" for text in warnings(record))
    return f'<div class="warnings"><ul>{items}</ul></div>' if items else ""


def preview_section(record: Record) -> str:
    """The newest preview in full size, the earlier ones below it."""
    pictures = previews(record)
    if not pictures:
        return ""
    *earlier, (step, urls, prompts) = pictures
    items = "".join(f"<li>{escape(prompt)}</li>" for prompt in prompts)
    section = "<h2>Previews</h2>"
    if items:
        section += f'<ol class="prompts">{items}</ol>'
    if drawn := how_previews_are_drawn(record):
        section += f"<p>Drawn {escape(drawn)}.</p>"
    section += f'<div class="preview">{images_of_step("previews", step, urls)}</div>'
    if earlier:
        earlier_images = "".join(f"<div>{images_of_step('previews', s, u)}</div>" for s, u, _ in reversed(earlier))
        section += f'<h2>Earlier previews, newest first</h2><div class="previews preview">{earlier_images}</div>'
    return section


def attention_section(record: Record) -> str:
    """The newest attention heatmaps in full size, the earlier ones folded away below them."""
    pictures = attention_pictures(record)
    if not pictures:
        return ""
    *earlier, (step, url) = pictures
    section = "<h2>Attention of the words</h2>"
    section += f'<div class="preview">{images_of_step("attention", step, [url])}</div>'
    if earlier:
        earlier_images = "".join(f"<div>{images_of_step('attention', s, [u])}</div>" for s, u in reversed(earlier))
        section += "<details><summary>Earlier, newest first</summary>"
        section += f'<div class="previews preview">{earlier_images}</div></details>'
    return section


def images_of_step(what: str, step: int, urls: Iterable[str]) -> str:
    """The pictures of a step, one below the other, under its number."""
    images = "".join(f'<img alt="{what} at step {step}" src="{url}">' for url in urls)
    return f"<b>step {step:,}</b>{images}"


def curve_section(record: Record) -> str:
    """Loss, its terms, learning rates, gradient norm and validation over the steps."""
    loss_terms = {name: smooth(points) for name, points in record.loss_terms().items()}
    norms = record.points("step", "grad_norm")
    norm_lines = [Line("each step", norms, "raw"), Line("mean", smooth(norms))]
    loss_note = f"{CHARTS['Loss']} {HELD_OUT}" if record.of("validation") else CHARTS["Loss"]
    charts = [
        chart("Loss", loss_lines(record), note=loss_note),
        explained("Terms of the loss", styled_lines(loss_terms)),
        explained("Learning rate", styled_lines(equal_joined(record.learning_rates())), from_zero=True),
        explained("Gradient norm, before clipping", norm_lines),
        explained("Validation loss by timestep", validation_lines(record)),
    ]
    return f'<h2>Curves</h2><div class="charts">{"".join(charts)}</div>' if any(charts) else ""


def explained(title: str, lines: Sequence[Line], *, from_zero: bool = False) -> str:
    """A chart with what its title means."""
    return chart(title, lines, note=CHARTS[title], from_zero=from_zero)


def equal_joined(points_by_name: Mapping[str, list[Point]]) -> dict[str, list[Point]]:
    """Lines that are one and the same as one, with all their names: `unet, te`. Else the last one hides the others."""
    names: list[list[str]] = []
    lines: list[list[Point]] = []
    for name, points in points_by_name.items():
        if points in lines:
            names[lines.index(points)].append(name)
        else:
            names.append([name])
            lines.append(points)
    return {", ".join(group): points for group, points in zip(names, lines, strict=True)}


def styled_lines(points_by_name: Mapping[str, list[Point]]) -> list[Line]:
    """A line for each name, in the styles of `STYLES`."""
    lines = []
    for i, (name, points) in enumerate(points_by_name.items()):
        style = STYLES[min(i, len(STYLES) - 1)]
        lines.append(Line(name, points, style))
    return lines


def validation_lines(record: Record) -> list[Line]:
    """A line for the lowest, the middle and the highest timestep of validation."""
    events = record.of("validation")
    timesteps = sorted({t for event in events for t in event.get("by_t") or {}}, key=float)
    if len(timesteps) < 2:
        return []
    # more curves would hide each other; of two timesteps the middle one is also the highest, so it comes once
    middle = len(timesteps) // 2
    selected = dict.fromkeys([timesteps[0], timesteps[middle], timesteps[-1]])
    points_by_name = {}
    for t in selected:
        measured = [event for event in events if event.get("by_t", {}).get(t)]
        points_by_name[f"t = {t}"] = [(event["step"], event["by_t"][t]) for event in measured]
    return styled_lines(points_by_name)


def component_section(record: Record) -> str:
    """Base model, adapter, files and versions."""
    versions = dict(record.summary_value("versions") or {})
    versions["device"] = record.summary_value("device")
    values_by_title: dict[str, Any] = {
        "Base model": record.summary_value("base"),
        "Adapter": record.summary_value("adapter"),
        "Files": exported_files(record),
        "Versions": versions,
    }
    cards = "".join(card(title, table(values)) for title, values in values_by_title.items() if values)
    return f'<h2>Made of</h2><div class="columns">{cards}</div>'


def settings_section(record: Record) -> str:
    """The config of the run, with which it can be repeated."""
    if not record.config:
        return ""
    return (
        "<h2>Settings</h2><details><summary>Everything the run used (config.toml)</summary>"
        f"<pre>{escape(record.config)}</pre></details>"
    )


def footer(record: Record) -> str:
    version = record.summary_value("versions", "lorasmith") or ""
    return f"<footer>Written by Lorasmith {escape(str(version))} from events.jsonl in this folder.</footer>"
