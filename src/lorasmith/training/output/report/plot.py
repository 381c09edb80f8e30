"""loss.png: the loss curve as a picture, drawn with Pillow."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from lorasmith.training.output.report.axes import Axis, Line, label, thinned, x_axis, y_axis
from lorasmith.training.output.report.record import Record, smoothed

SIZE = (1200, 640)
BOX = (90, 70, 1170, 570)
OVERSAMPLE = 2
PAPER, INK, FAINT = (255, 255, 255), (45, 50, 60), (226, 229, 234)
COLOURS = {"raw": (190, 208, 240), "main": (37, 99, 205), "second": (217, 95, 14), "base": (140, 145, 155)}
WIDTHS = {"raw": 2, "main": 6, "second": 5, "base": 3}


def loss_lines(record: Record) -> list[Line]:
    """The curves of the loss chart: each step, their mean, validation, and the base model on the same images."""
    steps = record.points("step", "loss")
    return [
        Line("each step", steps, "raw"),
        Line("mean", smoothed(steps), "main"),
        Line("validation", record.points("validation", "loss"), "second"),
        Line("validation, base model", record.points("validation", "base_loss"), "base"),
    ]


def plot(record: Record) -> Image.Image:
    """The loss chart, 1200 x 640, on white; drawn at twice the size for smooth lines."""
    lines = [line for line in loss_lines(record) if line.points]
    image = Image.new("RGB", (SIZE[0] * OVERSAMPLE, SIZE[1] * OVERSAMPLE), PAPER)
    draw = ImageDraw.Draw(image)
    x, y = x_axis(lines), y_axis(lines)
    _frame(draw, record.name, x, y)
    for line in lines:
        places = [_place(x, y, a, b) for a, b in thinned(line.points)]
        colour, width = COLOURS[line.style], WIDTHS[line.style]
        if len(places) > 1:
            draw.line(places, fill=colour, width=width, joint="curve")
        if line.style == "second" or len(places) == 1:
            for a, b in places:
                draw.ellipse((a - 7, b - 7, a + 7, b + 7), fill=colour)
    _legend(draw, lines)
    return image.resize(SIZE, Image.Resampling.LANCZOS)


def _place(x: Axis, y: Axis, a: float, b: float) -> tuple[float, float]:
    left, top, right, bottom = (v * OVERSAMPLE for v in BOX)
    return left + x.place(a) * (right - left), bottom - y.place(b) * (bottom - top)


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size * OVERSAMPLE)


def _frame(draw: ImageDraw.ImageDraw, name: str, x: Axis, y: Axis) -> None:
    left, top, right, bottom = (v * OVERSAMPLE for v in BOX)
    draw.text((left, top - 50 * OVERSAMPLE), f"{name}: loss", fill=INK, font=_font(22))
    for tick in y.ticks:
        at = _place(x, y, x.low, tick)[1]
        draw.line([(left, at), (right, at)], fill=FAINT, width=2)
        draw.text((left - 20, at), label(tick), fill=INK, font=_font(15), anchor="rm")
    for tick in x.ticks:
        at = _place(x, y, tick, y.low)[0]
        draw.text((at, bottom + 12 * OVERSAMPLE), label(tick), fill=INK, font=_font(15), anchor="mt")
    draw.text((right, bottom + 38 * OVERSAMPLE), "step", fill=INK, font=_font(15), anchor="rt")


def _legend(draw: ImageDraw.ImageDraw, lines: list[Line]) -> None:
    at, height = BOX[2] * OVERSAMPLE, (BOX[1] - 34) * OVERSAMPLE
    for line in reversed(lines):
        width = draw.textlength(line.name, font=_font(15))
        draw.text((at - width, height), line.name, fill=INK, font=_font(15), anchor="lm")
        start = at - width - 34 * OVERSAMPLE
        draw.line([(start, height), (start + 26 * OVERSAMPLE, height)], fill=COLOURS[line.style], width=8)
        at = start - 24 * OVERSAMPLE
