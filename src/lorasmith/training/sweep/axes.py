"""What a sweep varies: keys of the config and their values, from `adapter.rank=4,8,16` or `optimizer.lr=1e-5..1e-3`."""

from __future__ import annotations

import hashlib
import itertools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorasmith.core.errors import LorasmithError

Values = dict[str, str]
"""One combination: for each key the text of its value, as in an override on the command line."""

LONGEST_NAME = 100
HASH_DIGITS = 8
LONGEST_IN_LABEL = 16
"""Longer values, such as folders, are left out of the label of a run with a name."""
DECADE = 10
"""A range whose ends differ at least by this factor is searched on a logarithmic scale."""

# `low..high` without commas, brackets or quotes, so that a list of paths with ".." in them is not taken for a range
RANGE = re.compile(r"([^,.\[\"']*(?:\.\d[^,.]*)?)\.\.([^,\[\"']+)")


@dataclass(frozen=True)
class Axis:
    """A key with its values or, for a search, with the lowest and the highest value (`span`)."""

    key: str
    values: tuple[str, ...] = ()
    span: tuple[float, float] | None = None

    @property
    def integers(self) -> bool:
        """Whether the span is one of integers."""
        return self.span is not None and all(isinstance(end, int) for end in self.span)

    @property
    def logarithmic(self) -> bool:
        """Whether the span is searched on a logarithmic scale."""
        if self.span is None:
            return False
        low, high = self.span
        return low > 0 and high / low >= DECADE


def parse_axis(text: str) -> Axis:
    """Parse one `--over`. Raises LorasmithError that says what is wrong and shows the right form."""
    key, _, right = (part.strip() for part in text.partition("="))
    if not key or not right:
        raise LorasmithError(f'--over "{text}": write KEY=VALUE,VALUE, for example adapter.rank=4,8,16')

    # `low..high`
    ends = RANGE.fullmatch(right)
    if ends:
        low, high = (_parse_number(end, text) for end in ends.groups())
        if not low < high:
            raise LorasmithError(f'--over "{text}": the first end of a range must be lower than the second')
        return Axis(key, span=(low, high))

    # `value,value`
    values = split_at_commas(right)
    if "" in values:
        raise LorasmithError(f'--over "{text}": a value is empty (two commas side by side, or one at an end)')
    for value in values:
        if values.count(value) > 1:
            raise LorasmithError(f'--over "{text}": the value {value} is given twice')
    return Axis(key, tuple(values))


def parse_axes(texts: Sequence[str]) -> list[Axis]:
    """Parse all `--over`s. Raises LorasmithError if there are none, or if two have the same key."""
    axes = [parse_axis(text) for text in texts]
    if not axes:
        raise LorasmithError("give what varies: --over adapter.rank=4,8,16 (the option may be repeated)")
    keys = [axis.key for axis in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise LorasmithError(f"--over {key} is given twice; give all values of a key in one --over")
    return axes


def combinations(axes: Sequence[Axis]) -> list[Values]:
    """Every combination of values. Those of the last key vary fastest. Raises LorasmithError for a range."""
    for axis in axes:
        if axis.span is not None:
            raise LorasmithError(f"--over {axis.key}: a range needs --search; without --search, list the values")
    keys = [axis.key for axis in axes]
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(axis.values for axis in axes))]


def split_at_commas(text: str) -> list[str]:
    """The parts of a text between commas. Commas within brackets or quotes do not count."""
    # a value can be a TOML list or table, such as [0.9, 0.999]
    parts = [""]
    depth = 0
    quote = ""
    for letter in text:
        if letter == "," and depth == 0 and not quote:
            parts.append("")
            continue
        parts[-1] += letter
        if quote:
            if letter == quote:
                quote = ""
        elif letter in "\"'":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
    return [part.strip() for part in parts]


def label(values: Mapping[str, str], separator: str = "  ") -> str:
    """A combination for people: `rank 4  lr 1e-4`. Keys are as short as they can be and still differ. A run with a
    name is called by it, with the shorter ones of its other values."""
    if "name" in values:
        others = {key: value for key, value in values.items() if key != "name" and len(value) <= LONGEST_IN_LABEL}
        name = values["name"].strip("\"'")
        return separator.join([name, label(others, separator)]) if others else name
    keys = shorten_keys(list(values))
    return separator.join(f"{key} {value}" for key, value in zip(keys, values.values(), strict=True))


def folder_name(values: Mapping[str, str]) -> str:
    """The folder name of a combination. It depends on nothing but the values, so a wider sweep finds its runs again."""
    text = "_".join(f"{key}-{value}" for key, value in values.items())
    # characters that all file systems allow
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", text)
    if name == text and len(name) <= LONGEST_NAME:
        return name
    # different values must not get the same name because of characters that were replaced or cut off
    digest = hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]
    return f"{name[: LONGEST_NAME - HASH_DIGITS - 1]}-{digest}"


def shorten_keys(keys: Sequence[str]) -> list[str]:
    """The last part of each dotted key, or as many parts as are needed to tell all keys apart."""
    parts = [key.split(".") for key in keys]
    most = max(map(len, parts), default=1)
    for count in range(1, most + 1):
        short = [".".join(key_parts[-count:]) for key_parts in parts]
        if len(set(short)) == len(short):
            return short
    return list(keys)


def _parse_number(text: str, option: str) -> float:
    """A number as TOML writes it. `option`: the text of the whole option, for the error."""
    # parsed as in the config, so that 8 stays an integer and 8.0 a float
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LorasmithError(f'--over "{option}": "{text}" is not a number; write a range as 1e-5..1e-3')
    return value
