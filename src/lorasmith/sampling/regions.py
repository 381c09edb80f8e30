"""Texts of their own for parts of a picture: what is asked for, and the files that ask for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from lorasmith.core.config import validate
from lorasmith.core.errors import LorasmithError
from lorasmith.core.registry import Config
from lorasmith.families.stable_diffusion.steering import Box

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
_WRITTEN = re.compile(r"\s*\[(.*?)\]-\*-\[(.*?)\]-\*-\[([^\]]*)\]\s*(?:\||$)", re.DOTALL)
_WEIGHT = re.compile(r"\s*\[([^\]]*)\]\s*-\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*(?:\||$)")


class Place(Config):
    """A part of a picture."""

    box: Box = WHOLE
    """Left, top, right, bottom: shares of the picture if none is above 1, else pixels."""

    @field_validator("box")
    @classmethod
    def _has_an_inside(cls, value: Box) -> Box:
        left, top, right, bottom = value
        if min(value) < 0 or left >= right or top >= bottom:
            raise ValueError("left, top, right, bottom with left < right and top < bottom, for example [0, 0, 0.5, 1]")
        return value

    def share(self, width: int, height: int) -> Box:
        """The box as shares of a picture of this size. Raises LorasmithError if it ends outside."""
        left, top, right, bottom = self.box
        if max(self.box) <= 1:
            return self.box
        if right > width or bottom > height:
            raise LorasmithError(
                f"the region [{left:g}, {top:g}, {right:g}, {bottom:g}] (left, top, right, bottom) ends outside the "
                f"picture of {width} x {height} pixels"
            )
        return left / width, top / height, right / width, bottom / height


class Region(Place):
    """A part of a picture with a text of its own."""

    prompt: str = Field(min_length=1)
    negative: str | None = None
    """Default: the picture's."""
    weight: float = Field(default=1.0, ge=0, le=1)
    """1: inside, the picture's own text does not count; 0: the region's does not."""


def written(regions: Sequence[Region], width: int, height: int) -> str:
    """Regions in the syntax of Mix-of-Show, for the text in a picture's file."""
    parts = []
    for region in regions:
        left, top, right, bottom = region.share(width, height)
        pixels = (round(top * height), round(left * width), round(bottom * height), round(right * width))
        parts.append(f"[{region.prompt}]-*-[{region.negative or ''}]-*-[{', '.join(map(str, pixels))}]")
    return "|".join(parts)


def parse(text: str) -> list[dict[str, Any]]:
    """Mix-of-Show's `[prompt]-*-[negative]-*-[top, left, bottom, right]|...` as tables of `Region`.

    Coordinates are pixels; none at all means the whole picture. Raises LorasmithError, with the place, for anything
    else.
    """
    how = "[prompt]-*-[negative]-*-[top, left, bottom, right], with | between regions"
    return [
        {"prompt": match[1].strip(), "negative": match[2].strip(), "box": _box(match[3])}
        for match in _matches(_WRITTEN, text, how)
    ]


def parse_weights(text: str) -> list[dict[str, Any]]:
    """Mix-of-Show's `[top, left, bottom, right]-weight|...` as tables of `infer.control.Share`. Raises as `parse`."""
    how = "[top, left, bottom, right]-0.8, with | between regions"
    return [{"box": _box(match[1]), "weight": float(match[2])} for match in _matches(_WEIGHT, text, how)]


def _matches(pattern: re.Pattern[str], text: str, how: str) -> Iterator[re.Match[str]]:
    """A pattern again and again over a whole text. `how`: what should have been written."""
    text, at = text.strip(), 0
    while at < len(text):
        match = pattern.match(text, at)
        if match is None:
            raise LorasmithError(f"regions: cannot read {text[at : at + 60]!r}; write {how}")
        yield match
        at = match.end()


def _box(text: str) -> Box:
    """`top, left, bottom, right` as left, top, right, bottom."""
    if not text.strip():
        return WHOLE
    try:
        top, left, bottom, right = (float(part) for part in text.split(","))
    except ValueError:
        raise LorasmithError(f"regions: [{text}] is not four numbers: top, left, bottom, right in pixels") from None
    return left, top, right, bottom


def read_regions(path: Path) -> tuple[Region, ...]:
    """The regions of a file: TOML or JSON with `regions`, each with `prompt` and `box`, or a text file in Mix-of-Show's
    syntax. Raises LorasmithError or ConfigError for what cannot be read."""
    from lorasmith.sampling.prompts import read_scenes

    if not path.is_file():
        raise LorasmithError(f"--regions {path}: no such file")
    if path.suffix.lower() in (".toml", ".json"):
        tables = read_scenes(path)[0].get("regions", [])
    else:
        tables = parse(path.read_text(encoding="utf-8-sig"))
    if not tables:
        raise LorasmithError(f"{path}: there is no region in it; each needs a prompt and a box")
    return regions_of(tables, str(path))


def regions_of(tables: Sequence[dict[str, Any]], source: str) -> tuple[Region, ...]:
    """Tables as regions. Raises ConfigError with everything that is wrong."""
    return validate(_Regions, {"regions": list(tables)}, source).regions


class _Regions(Config):
    regions: tuple[Region, ...] = ()
