"""What varies: keys of the config and their values, from `adapter.rank=4,8,16` or `optimizer.lr=1e-5..1e-3`."""

from __future__ import annotations

import hashlib
import itertools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorasmith.core.errors import LorasmithError

Values = dict[str, str]
"""One combination: for each key the text of its value, as an override on the command line has it."""
LONGEST_NAME = 100
DECADE = 10
"""A range whose ends are at least so far apart, as a factor, is searched on a logarithmic scale."""


@dataclass(frozen=True)
class Axis:
    """A key and its values; or, for a search, the lowest and the highest (`span`)."""

    key: str
    values: tuple[str, ...] = ()
    span: tuple[float, float] | None = None

    @property
    def whole(self) -> bool:
        """Whether the span is of whole numbers."""
        return self.span is not None and all(isinstance(end, int) for end in self.span)

    @property
    def logarithmic(self) -> bool:
        return self.span is not None and self.span[0] > 0 and self.span[1] / self.span[0] >= DECADE


def axis(text: str) -> Axis:
    """An `--over`. Raises LorasmithError with the form it should have."""
    key, sign, right = (part.strip() for part in text.partition("="))
    if not sign or not key or not right:
        raise LorasmithError(f'--over "{text}": write KEY=VALUE,VALUE, for example adapter.rank=4,8,16')
    ends = re.fullmatch(r"([^,.\[\"']*(?:\.\d[^,.]*)?)\.\.([^,\[\"']+)", right)
    if ends:
        low, high = (_number(end, text) for end in ends.groups())
        if not low < high:
            raise LorasmithError(f'--over "{text}": the first end of a range must be the lower one')
        return Axis(key, span=(low, high))
    values = tuple(split(right))
    if any(not value for value in values):
        raise LorasmithError(f'--over "{text}": there is nothing between two commas')
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise LorasmithError(f'--over "{text}": {twice[0]} is there twice')
    return Axis(key, values)


def axes(texts: Sequence[str]) -> list[Axis]:
    """All `--over`s. Raises LorasmithError if there are none, or a key comes twice."""
    found = [axis(text) for text in texts]
    if not found:
        raise LorasmithError("say what varies: --over adapter.rank=4,8,16 (may be given several times)")
    keys = [a.key for a in found]
    for key in keys:
        if keys.count(key) > 1:
            raise LorasmithError(f"--over {key} is there twice; give all its values in one")
    return found


def product(found: Sequence[Axis]) -> list[Values]:
    """Every combination, the last key's values varying fastest. Raises LorasmithError for a range."""
    for a in found:
        if a.span is not None:
            raise LorasmithError(f"--over {a.key}: a range is for --search; without it, list the values")
    return [dict(zip([a.key for a in found], c, strict=True)) for c in itertools.product(*(a.values for a in found))]


def split(text: str) -> list[str]:
    """The parts between commas that stand in no bracket and no quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += letter
    return [part.strip() for part in parts]


def label(values: Mapping[str, str], gap: str = "  ") -> str:
    """For people: `rank 4  lr 1e-4`; keys shortened as far as they stay different."""
    return gap.join(f"{short} {value}" for short, value in zip(shortened(list(values)), values.values(), strict=True))


def name(values: Mapping[str, str]) -> str:
    """The name of a combination's folder: the same for the same values, whatever else the sweep holds."""
    text = "_".join(f"{key}-{value}" for key, value in values.items())
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", text)
    if plain == text and len(plain) <= LONGEST_NAME:
        return plain
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{plain[: LONGEST_NAME - 9]}-{digest}"


def shortened(keys: Sequence[str]) -> list[str]:
    """The last part of each key, or as many as tell it from the others."""
    parts = [key.split(".") for key in keys]
    most = max(map(len, parts), default=1)
    for count in range(1, most + 1):
        short = [".".join(p[-count:]) for p in parts]
        if len(set(short)) == len(short):
            return short
    return list(keys)


def _number(text: str, whole: str) -> float:
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LorasmithError(f'--over "{whole}": "{text}" is not a number; write a range as 1e-5..1e-3')
    return value
