"""Regions: parts of a picture with their own prompts, and the files that define them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from lorasmith.core.config import validate
from lorasmith.core.errors import LorasmithError
from lorasmith.core.registry import Config
from lorasmith.core.text_files import read_text
from lorasmith.families.stable_diffusion.steering import Box
from lorasmith.sampling.prompts import read_prompt_tables

WHOLE_PICTURE: Box = (0.0, 0.0, 1.0, 1.0)

# text may contain commas and `|`, so a region ends only where a closing bracket is followed by `|` or the end
_REGION = re.compile(r"\s*\[(.*?)\]-\*-\[(.*?)\]-\*-\[([^\]]*)\]\s*(?:\||$)", re.DOTALL)
_REGION_SYNTAX = "[prompt]-*-[negative]-*-[top, left, bottom, right], with | between regions"
_AREA_WEIGHT = re.compile(r"\s*\[([^\]]*)\]\s*-\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*(?:\||$)")
_AREA_WEIGHT_SYNTAX = "[top, left, bottom, right]-0.8, with | between regions"


class PictureArea(Config):
    """A rectangular part of a picture."""

    box: Box = WHOLE_PICTURE
    """Left, top, right, bottom: fractions of the picture if no value is above 1, else pixels."""

    @field_validator("box")
    @classmethod
    def _must_not_be_empty(cls, value: Box) -> Box:
        left, top, right, bottom = value
        if min(value) < 0 or left >= right or top >= bottom:
            raise ValueError("left, top, right, bottom with left < right and top < bottom, for example [0, 0, 0.5, 1]")
        return value

    def relative_box(self, width: int, height: int) -> Box:
        """The box as fractions of a picture of this size in pixels. Raises LorasmithError if it ends outside."""
        if max(self.box) <= 1:
            return self.box
        left, top, right, bottom = self.box
        # Boxes in pixels depend on the size of the picture; a box of another size is a mistake, not something to clip.
        if right > width or bottom > height:
            raise LorasmithError(
                f"the region [{left:g}, {top:g}, {right:g}, {bottom:g}] (left, top, right, bottom) ends outside the "
                f"picture of {width} x {height} pixels"
            )
        return left / width, top / height, right / width, bottom / height


class Region(PictureArea):
    """A part of a picture with its own prompt."""

    prompt: str = Field(min_length=1)
    negative: str | None = None
    """Default: the negative prompt of the picture."""
    weight: float = Field(default=1.0, ge=0, le=1)
    """1: only the region's prompt has an effect inside the box; 0: only the picture's prompt has."""


class _RegionList(Config):
    regions: tuple[Region, ...] = ()


def format_regions(regions: Sequence[Region], width: int, height: int) -> str:
    """Regions in the syntax of Mix-of-Show (see `parse_regions`), for the metadata of a picture of this size."""
    parts = []
    for region in regions:
        left, top, right, bottom = region.relative_box(width, height)
        edges = (round(top * height), round(left * width), round(bottom * height), round(right * width))
        box = ", ".join(str(edge) for edge in edges)
        parts.append(f"[{region.prompt}]-*-[{region.negative or ''}]-*-[{box}]")
    return "|".join(parts)


def parse_regions(text: str) -> list[dict[str, Any]]:
    """Mix-of-Show's `[prompt]-*-[negative]-*-[top, left, bottom, right]|...` as tables of `Region`.

    Coordinates are pixels; an empty box is the whole picture. Raises LorasmithError, with the text at the position, if
    the syntax is wrong.
    """
    tables = []
    for match in _match_all(_REGION, text, _REGION_SYNTAX):
        prompt, negative, box = match.groups()
        tables.append({"prompt": prompt.strip(), "negative": negative.strip(), "box": _parse_box(box)})
    return tables


def parse_area_weights(text: str) -> list[dict[str, Any]]:
    """Mix-of-Show's `[top, left, bottom, right]-weight|...` as tables of `control.AreaWeight`.

    Raises LorasmithError as `parse_regions` does.
    """
    tables = []
    for match in _match_all(_AREA_WEIGHT, text, _AREA_WEIGHT_SYNTAX):
        box, weight = match.groups()
        tables.append({"box": _parse_box(box), "weight": float(weight)})
    return tables


def _match_all(pattern: re.Pattern[str], text: str, syntax: str) -> Iterator[re.Match[str]]:
    """Consecutive matches that cover the whole text. `syntax`: a description for the error message."""
    text = text.strip()
    position = 0
    while position < len(text):
        match = pattern.match(text, position)
        if match is None:
            raise LorasmithError(f"regions: cannot read {text[position : position + 60]!r}; write {syntax}")
        yield match
        position = match.end()


def _parse_box(text: str) -> Box:
    """`top, left, bottom, right` as (left, top, right, bottom)."""
    if not text.strip():
        return WHOLE_PICTURE
    try:
        top, left, bottom, right = (float(part) for part in text.split(","))
    except ValueError:
        raise LorasmithError(f"regions: [{text}] is not four numbers: top, left, bottom, right in pixels") from None
    return left, top, right, bottom


def read_regions(path: Path) -> tuple[Region, ...]:
    """The regions of a file: TOML or JSON with `regions`, each with `prompt` and `box`, or a text file in Mix-of-Show's
    syntax. Raises LorasmithError or ConfigError if the file is missing, empty or wrong."""
    if not path.is_file():
        raise LorasmithError(f"--regions {path}: no such file")
    if path.suffix.lower() in (".toml", ".json"):
        tables = read_prompt_tables(path)[0].get("regions", [])
    else:
        tables = parse_regions(read_text(path))
    if not tables:
        raise LorasmithError(f"{path}: there is no region in it; each region needs a prompt and a box")
    return validate_regions(tables, str(path))


def validate_regions(tables: Sequence[dict[str, Any]], source: str) -> tuple[Region, ...]:
    """Tables as regions. `source` names them in errors. Raises ConfigError with all problems."""
    return validate(_RegionList, {"regions": list(tables)}, source).regions
