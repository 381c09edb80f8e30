"""loss.png: the loss curve as a picture, drawn with Pillow."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from lorasmith.training.output.report.axes import Axis, Line, thin_out, tick_label, x_axis, y_axis
from lorasmith.training.output.report.record import Record, smooth

SIZE = (1200, 640)
BOX = (90, 70, 1170, 570)
"""Left, top, right and bottom of the area of the curves."""
OVERSAMPLE = 2
"""The picture is drawn so many times larger and then scaled down, for smooth lines."""
PAPER = (255, 255, 255)
INK = (45, 50, 60)
FAINT = (226, 229, 234)
COLOURS = {
    "raw": (190, 208, 240),
    "main": (37, 99, 205),
    "second": (217, 95, 14),
    "base": (140, 145, 155),
}
WIDTHS = {"raw": 2, "main": 6, "second": 5, "base": 3}
"""Colours and widths of lines by style."""
DOT_RADIUS = 7
TITLE_SIZE, LABEL_SIZE = 22, 15


def loss_lines(record: Record) -> list[Line]:
    """The curves of the loss chart: each step, their moving average, validation, and the base model's validation."""
    steps = record.points("step", "loss")
    return [
        Line("each step", steps, "raw"),
        Line("mean", smooth(steps), "main"),
        Line("validation", record.points("validation", "loss"), "second"),
        Line("validation, base model", record.points("validation", "base_loss"), "base"),
    ]


def plot(record: Record) -> Image.Image:
    """The loss chart, 1200 x 640 pixels, on white."""
    lines = [line for line in loss_lines(record) if line.points]
    width, height = SIZE
    image = Image.new("RGB", (width * OVERSAMPLE, height * OVERSAMPLE), PAPER)
    draw = ImageDraw.Draw(image)
    x = x_axis(lines)
    y = y_axis(lines)
    _draw_frame(draw, f"{record.name}: loss", x, y)
    for line in lines:
        _draw_curve(draw, line, x, y)
    _draw_legend(draw, lines)
    return image.resize(SIZE, Image.Resampling.LANCZOS)


def _pixel(x: Axis, y: Axis, step: float, value: float) -> tuple[float, float]:
    """The pixel of a point, in the enlarged picture."""
    left, top, right, bottom = (edge * OVERSAMPLE for edge in BOX)
    px = left + x.position(step) * (right - left)
    # rows of pixels are counted from the top
    py = bottom - y.position(value) * (bottom - top)
    return px, py


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size * OVERSAMPLE)


def _draw_frame(draw: ImageDraw.ImageDraw, title: str, x: Axis, y: Axis) -> None:
    """Title, horizontal lines at the ticks of the y axis, and the labels of both axes."""
    left, top, right, bottom = (edge * OVERSAMPLE for edge in BOX)
    draw.text((left, top - 50 * OVERSAMPLE), title, fill=INK, font=_font(TITLE_SIZE))
    label_font = _font(LABEL_SIZE)
    for tick in y.ticks:
        _, height = _pixel(x, y, x.low, tick)
        draw.line([(left, height), (right, height)], fill=FAINT, width=2)
        draw.text((left - 20, height), tick_label(tick), fill=INK, font=label_font, anchor="rm")
    for tick in x.ticks:
        across, _ = _pixel(x, y, tick, y.low)
        draw.text((across, bottom + 12 * OVERSAMPLE), tick_label(tick), fill=INK, font=label_font, anchor="mt")
    draw.text((right, bottom + 38 * OVERSAMPLE), "step", fill=INK, font=label_font, anchor="rt")


def _draw_curve(draw: ImageDraw.ImageDraw, line: Line, x: Axis, y: Axis) -> None:
    pixels = [_pixel(x, y, step, value) for step, value in thin_out(line.points)]
    colour = COLOURS[line.style]
    if len(pixels) > 1:
        draw.line(pixels, fill=colour, width=WIDTHS[line.style], joint="curve")
    # validation is measured rarely, so its points are marked
    if line.style == "second" or len(pixels) == 1:
        for px, py in pixels:
            draw.circle((px, py), DOT_RADIUS, fill=colour)


def _draw_legend(draw: ImageDraw.ImageDraw, lines: list[Line]) -> None:
    """The names of the lines, each after a short piece of its line, in one row that ends at the right edge."""
    right = BOX[2] * OVERSAMPLE
    height = (BOX[1] - 34) * OVERSAMPLE
    font = _font(LABEL_SIZE)
    # from right to left, since the width of a name is known only when it is drawn
    for line in reversed(lines):
        name_left = right - draw.textlength(line.name, font=font)
        draw.text((name_left, height), line.name, fill=INK, font=font, anchor="lm")
        sample_left = name_left - 34 * OVERSAMPLE
        sample_right = sample_left + 26 * OVERSAMPLE
        draw.line([(sample_left, height), (sample_right, height)], fill=COLOURS[line.style], width=8)
        right = sample_left - 24 * OVERSAMPLE
