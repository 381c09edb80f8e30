"""The size of a LoRA's change per block as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import atomic_path

ROW, MARGIN, LABEL, BAR, NUMBER = 24, 16, 170, 460, 90
PAPER, INK, SOFT = (255, 255, 255), (32, 36, 44), (120, 126, 138)
COLOURS = {"unet": (58, 110, 184), "te": (196, 104, 52)}
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def plot(norms: Mapping[str, float], title: str, path: Path) -> Path:
    """Bars of the Frobenius norm of each block's change. Raises LorasmithError for a file that is no picture's, or if
    no block's change can be told from the file alone."""
    if path.suffix.lower() not in SUFFIXES:
        raise LorasmithError(f"--plot {path}: give the name of a picture: {', '.join(SUFFIXES)}")
    if not norms:
        raise LorasmithError(
            f"--plot: the changes of {title} depend on the weights of the base; there is nothing to draw"
        )
    largest = max(norms.values()) or 1.0
    width = 2 * MARGIN + LABEL + BAR + NUMBER
    sheet = Image.new("RGB", (width, 2 * MARGIN + ROW * (len(norms) + 2)), PAPER)
    pen, font, bold = ImageDraw.Draw(sheet), ImageFont.load_default(14), ImageFont.load_default(16)
    pen.text((MARGIN, MARGIN), title, INK, bold)
    pen.text((MARGIN, MARGIN + ROW), "Frobenius norm of the change, by block", SOFT, font)
    for i, (block, norm) in enumerate(norms.items()):
        top = MARGIN + ROW * (i + 2)
        pen.text((MARGIN, top + 2), block, INK, font)
        left, length = MARGIN + LABEL, round(BAR * norm / largest)
        colour = COLOURS["unet" if block.startswith("unet") else "te"]
        pen.rectangle((left, top + 4, left + max(1, length), top + ROW - 5), colour)
        pen.text((left + length + 8, top + 2), f"{norm:.3g}", INK, font)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format={"jpg": "jpeg"}.get(path.suffix[1:].lower(), path.suffix[1:].lower()))
    return path
