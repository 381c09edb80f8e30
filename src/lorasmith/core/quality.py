"""The four numbers of a LoRA: their names and meaning, and how two LoRAs are compared by them. Without torch.

`evaluate`, the hook `scores`, sweeps and reports use this one definition. The values come from `lorasmith.evaluation`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from lorasmith.core.intervals import Interval, bootstrap_interval, known_rows, mean_of_rows

ENOUGH_IMAGES = 4
"""With the losses of fewer images than these, a choice is weak evidence."""
ENOUGH_PICTURES = 8
"""With fewer pictures than these, a choice is weak evidence."""

Rows = tuple[tuple[float, ...], ...]
"""Rows of prompts (or of images) and columns of seeds; NaN where nothing could be measured."""


@dataclass(frozen=True)
class NumberKind:
    """What a number means."""

    label: str
    meaning: str
    higher_is_better: bool
    signed: bool = False
    """Whether its target is 0 and both signs occur."""
    of_losses: bool = False
    """Whether it is measured by the losses of images, and not in pictures that are drawn."""

    def distance(self, mean: float) -> float:
        """The lower, the better: for sorting. Of a number whose target is 0, how far it is from it."""
        if self.higher_is_better:
            return -mean
        return abs(mean) if self.signed else mean

    @property
    def enough(self) -> int:
        """The number of values below which a choice is weak evidence."""
        return ENOUGH_IMAGES if self.of_losses else ENOUGH_PICTURES

    @property
    def remedy(self) -> str:
        """What to do against weak evidence."""
        return f"measure {self.enough} images or more" if self.of_losses else f"draw {self.enough} pictures or more"


NUMBERS: dict[str, NumberKind] = {
    "likeness": NumberKind(
        "likeness", "mean cosine with all training images, of pictures of prompts with the trigger", True
    ),
    "text": NumberKind("text", "cosine of all pictures with their prompts", True),
    "copying": NumberKind("copying", "cosine of pictures with the trigger with the nearest training image", False),
    "copying_loss": NumberKind(
        "copying, loss",
        "how much more the loss fell on training images than on held-out ones, with empty captions, as a share of the "
        "base's loss; above 0 the images themselves are remembered",
        False,
        signed=True,
        of_losses=True,
    ),
    "drift_features": NumberKind(
        "drift, features",
        "1 - cosine of pictures of prompts without the trigger with those of the base at the same seeds",
        False,
    ),
    "drift_pixels": NumberKind("drift, pixels", "mean difference of the pixels of the same pictures, 0 to 1", False),
    "drift_loss": NumberKind(
        "drift, loss",
        "how much higher the loss of class images is than that of the base at the same noise, as a share of it",
        False,
        signed=True,
        of_losses=True,
    ),
}
"""In the order of tables. The four numbers are likeness, text, copying and drift; the last two are measured in two and
three ways."""


@dataclass(frozen=True)
class Values:
    """What a number is the mean of. `less`: values whose mean is subtracted from that of `rows`."""

    rows: Rows
    less: Rows = ()

    def interval(self) -> Interval | None:
        """The number with its bootstrap interval over rows and columns; None if nothing could be measured."""
        return bootstrap_interval(self.rows, less=self.less)

    @property
    def count(self) -> int:
        """How many values were measured; of two tables, the smaller number."""
        tables = [table for table in (self.rows, self.less) if table]
        return min((sum(not math.isnan(value) for row in table for value in row) for table in tables), default=0)

    def minus(self, other: Values) -> Values | None:
        """The differences, value by value; None if the values are not those of the same prompts, images and seeds."""
        if shape(self.rows) != shape(other.rows) or shape(self.less) != shape(other.less):
            return None
        return Values(difference(self.rows, other.rows), difference(self.less, other.less))

    def scaled(self, factor: float) -> Values:
        """All values, multiplied."""

        def rows(table: Rows) -> Rows:
            return tuple(tuple(factor * value for value in row) for row in table)

        return Values(rows(self.rows), rows(self.less))

    def to_json(self) -> dict[str, Any]:
        """As JSON data; values that could not be measured are None."""
        return {
            name: [[round(value, 6) if math.isfinite(value) else None for value in row] for row in rows]
            for name, rows in (("rows", self.rows), ("less", self.less))
        }


NumberValues = dict[str, Values]
"""By the names in `NUMBERS`."""
Numbers = dict[str, Interval | None]
"""By the names in `NUMBERS`; None where nothing could be measured."""


def numbers_of(values: Mapping[str, Values]) -> Numbers:
    """The numbers with their intervals."""
    return {name: values[name].interval() for name in NUMBERS if name in values}


def to_json(numbers: Mapping[str, Interval | None]) -> dict[str, dict[str, float | None] | None]:
    """Means and ends of the intervals, rounded; an end that is infinite is None."""

    def end(value: float) -> float | None:
        return round(value, 4) if math.isfinite(value) else None

    return {
        name: None if own is None else {"mean": end(own.mean), "low": end(own.low), "high": end(own.high)}
        for name, own in numbers.items()
    }


def interval_from_json(content: object) -> Interval | None:
    """An interval of a file; None if the content is none. Ends that are None are infinite."""
    if not isinstance(content, dict):
        return None
    table = cast("dict[object, object]", content)
    if not {"mean", "low", "high"} <= table.keys():
        return None
    ends = [table["mean"]]
    ends += [
        infinite if table[name] is None else table[name] for name, infinite in (("low", -math.inf), ("high", math.inf))
    ]
    numbers = [float(end) for end in ends if isinstance(end, int | float)]
    return Interval(*numbers) if len(numbers) == 3 else None


def values_from_json(content: object) -> Values | None:
    """The values of a file; None if the content is none."""
    if not isinstance(content, dict):
        return None
    table = cast("dict[object, object]", content)
    rows, less = rows_from_json(table.get("rows")), rows_from_json(table.get("less", []))
    return None if rows is None or less is None else Values(rows, less)


def rows_from_json(content: object) -> Rows | None:
    """Rows of a file; None if they are none."""
    if not isinstance(content, list):
        return None
    rows: list[tuple[float, ...]] = []
    for row in cast("list[object]", content):
        if not isinstance(row, list):
            return None
        values = cast("list[object]", row)
        known = [math.nan if value is None else value for value in values]
        numbers = [float(value) for value in known if isinstance(value, int | float)]
        if len(numbers) != len(values):
            return None
        rows.append(tuple(numbers))
    return tuple(rows)


def advantage(kind: str, first: Values, second: Values) -> Interval | None:
    """How much better the first LoRA is than the second by a number, as paired differences with their interval.

    Above 0: better. If the interval contains 0, the difference is noise. None if they were not measured on the same
    prompts, images and seeds, or not at all.
    """
    number = NUMBERS[kind]
    if number.signed:
        first, second = away_from_zero(first), away_from_zero(second)
    paired = first.minus(second) if number.higher_is_better else second.minus(first)
    return None if paired is None else paired.interval()


def away_from_zero(values: Values) -> Values:
    """Values with the sign that makes their mean positive."""
    rows, less = known_rows(values.rows), known_rows(values.less)
    mean = (mean_of_rows(rows) if rows else 0.0) - (mean_of_rows(less) if less else 0.0)
    return values.scaled(-1.0) if mean < 0 else values


def shape(rows: Sequence[Sequence[float]]) -> list[int]:
    return [len(row) for row in rows]


def difference(first: Rows, second: Rows) -> Rows:
    return tuple(
        tuple(a - b for a, b in zip(mine, theirs, strict=True)) for mine, theirs in zip(first, second, strict=True)
    )


@dataclass(frozen=True)
class Ranking:
    """LoRAs in the order of one number."""

    number: str
    order: tuple[str, ...]
    """Their names, the best first; those that were not measured are left out."""
    ties: tuple[str, ...]
    """Those that are not distinguishable from the best one: the interval of the paired differences contains 0."""
    weak: bool = False
    """Whether the best one was measured in too few pictures, or images, for a ranking that one can rely on."""

    @property
    def best(self) -> str:
        return self.order[0]


def rank(number: str, values: Mapping[str, Values]) -> Ranking | None:
    """The order of LoRAs by a number; None if it was measured for none. `values`: by the names of the LoRAs."""
    intervals = {name: own.interval() for name, own in values.items()}
    known = {name: interval for name, interval in intervals.items() if interval is not None}
    if not known:
        return None
    order = sorted(known, key=lambda name: NUMBERS[number].distance(known[name].mean))
    best = order[0]
    ties: list[str] = []
    for name in order[1:]:
        lead = advantage(number, values[best], values[name])
        # of other prompts, images or seeds, all that can be compared are the intervals
        overlap = known[name].low <= known[best].high and known[name].high >= known[best].low
        if overlap if lead is None else lead.low <= 0:
            ties.append(name)
    return Ranking(number, tuple(order), tuple(ties), weak=values[best].count < NUMBERS[number].enough)
