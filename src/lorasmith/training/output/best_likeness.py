"""Which of a run's weights are the best by the likeness that the hook `scores` measured.

The rule: *the latest weights whose likeness is not lower than the highest one.* Lower means that the 90 % interval of
the paired differences, at the same prompts and seeds, is below 0. Does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lorasmith.core.intervals import Interval
from lorasmith.core.quality import ENOUGH_PICTURES, Values, advantage, interval_from_json, values_from_json
from lorasmith.training.output.best import describe

NUMBER = "likeness"


@dataclass(frozen=True)
class Likeness:
    """The likeness of the weights of one step: a row for each prompt with the trigger, a column for each seed."""

    step: int
    values: Values
    mean: float

    def below(self, other: Likeness) -> Interval | None:
        """How much lower it is than that of other weights; None if their pictures have other prompts or seeds."""
        return advantage(NUMBER, other.values, self.values)

    def is_lower_than(self, other: Likeness) -> bool:
        """Whether the interval of the differences is above 0. False for pictures that cannot be compared."""
        behind = self.below(other)
        return behind is not None and behind.low > 0


@dataclass(frozen=True)
class LikenessChoice:
    """The best weights among those that were measured, and why."""

    best: Likeness
    highest: Likeness
    """Those with the highest mean."""
    last: Likeness
    count: int
    """How many were measured."""

    @property
    def pictures(self) -> int:
        return sum(len(row) for row in self.best.values.rows)

    @property
    def weak(self) -> bool:
        """Whether too few pictures were drawn for a choice that one can rely on."""
        return self.pictures < ENOUGH_PICTURES

    @property
    def reason(self) -> str:
        """Why these are the best, as a sentence without its full stop."""
        pictures = f"{self.pictures} picture{'' if self.pictures == 1 else 's'}"
        parts = [f"step {self.best.step:,}: likeness {self.best.mean:.4f} in {pictures}"]
        if self.count == 1:
            parts.append("the only weights that were measured")
        elif self.best.step < self.last.step:
            parts.append(f"later ones are less alike, step {self.last.step:,} by {self._behind(self.last)}")
        elif self.best is self.highest:
            parts.append(f"the highest of {self.count} that were measured")
        else:
            parts.append(
                f"trained longest, and not distinguishable from the highest, {self.highest.mean:.4f} at step "
                f"{self.highest.step:,} (difference {self._behind(self.best)})"
            )
        if self.weak:
            parts.append(f"weak evidence: draw {ENOUGH_PICTURES} pictures or more (`count` of the hook scores)")
        return "; ".join(parts)

    def _behind(self, weights: Likeness) -> str:
        """How far weights are below the highest, in words."""
        behind = weights.below(self.highest)
        if behind is None:
            return "an unknown amount"
        return describe(behind)

    def to_json(self) -> dict[str, Any]:
        """The choice as JSON data without names, for the events and for the metadata of the file."""
        return {
            "by": NUMBER,
            "best_step": self.best.step,
            NUMBER: round(self.best.mean, 4),
            "highest_step": self.highest.step,
            "last_step": self.last.step,
            "pictures": self.pictures,
            "measured": self.count,
            "weak": self.weak,
            "reason": self.reason,
        }


def choose_by_likeness(measured: Sequence[Likeness]) -> LikenessChoice:
    """The best of the weights that were measured, in the order of their steps (at least one)."""
    highest = max(measured, key=lambda weights: weights.mean)
    good = [weights for weights in measured if not weights.is_lower_than(highest)]
    return LikenessChoice(good[-1], highest, measured[-1], len(measured))


def likeness_by_step(scores: Sequence[dict[str, Any]]) -> dict[int, Likeness]:
    """The likeness of the events `scores`, by step. Events without it are left out; of one step the last one counts."""
    found: dict[int, Likeness] = {}
    for event in scores:
        values, numbers = event.get("values"), event.get("numbers")
        if not isinstance(values, dict) or not isinstance(numbers, dict):
            continue
        own, interval = values_from_json(values.get(NUMBER)), interval_from_json(numbers.get(NUMBER))
        if own is not None and interval is not None:
            found[int(event["step"])] = Likeness(int(event["step"]), own, interval.mean)
    return dict(sorted(found.items()))
