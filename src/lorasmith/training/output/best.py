"""Which of a run's weights are the best ones: the rule, from held-out losses at fixed noise and timesteps.

The rule: *the latest weights whose held-out loss is not worse than the lowest one.* Worse means that Student's 90 %
interval of the differences, image by image at the same noise and timesteps, is above 0. Where pictures cannot tell two
weights apart, the ones that were trained longer know more of the subject. Does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Any

from lorasmith.core.intervals import Interval, student_interval
from lorasmith.core.quality import ENOUGH_IMAGES

CONFIDENCE_TEXT = "90 % interval"


@dataclass(frozen=True)
class HeldOutLoss:
    """The held-out loss of the weights of one step."""

    step: int
    by_image: tuple[float, ...]
    """The loss of each held-out image, the mean over the timesteps, always in the same order."""
    by_timestep: tuple[float, ...] = ()
    """The loss at each timestep, the mean over the images."""

    @property
    def mean(self) -> float:
        return fmean(self.by_image)

    def minus(self, other: HeldOutLoss) -> Interval:
        """How much higher the loss is than that of other weights, on the same images and noise."""
        pairs = (self.by_image, other.by_image)
        # of one image, the timesteps are all there is; they are not independent, and the choice counts as weak
        if len(self.by_image) < 2 and len(self.by_timestep) == len(other.by_timestep) > 1:
            pairs = (self.by_timestep, other.by_timestep)
        return student_interval([mine - theirs for mine, theirs in zip(*pairs, strict=True)])

    def is_worse_than(self, other: HeldOutLoss) -> bool:
        """Whether the interval of the differences is above 0. False for other images, which cannot be compared."""
        return len(self.by_image) == len(other.by_image) and self.minus(other).low > 0


@dataclass(frozen=True)
class Choice:
    """The best weights among those that were measured, and why."""

    best: HeldOutLoss
    lowest: HeldOutLoss
    """Those with the lowest mean."""
    last: HeldOutLoss
    start: HeldOutLoss | None
    """The weights before the first step, if they were measured."""
    count: int
    """How many were measured."""

    @property
    def images(self) -> int:
        return len(self.best.by_image)

    @property
    def weak(self) -> bool:
        """Whether too few images are held out for a choice that one can rely on."""
        return self.images < ENOUGH_IMAGES

    @property
    def no_better_than_start(self) -> bool:
        """Whether the loss is not distinguishable from that before the first step, as far as this was measured.

        The interval of a few images that improve by different amounts contains 0; if all of them improve, it is no
        reason to say that nothing was learned.
        """
        if self.start is None or self.start.minus(self.best).low > 0:
            return False
        pairs = zip(self.start.by_image, self.best.by_image, strict=True)
        improved = [before > after for before, after in pairs]
        return len(improved) < 2 or not all(improved)

    @property
    def reason(self) -> str:
        """Why these are the best, as a sentence without its full stop."""
        images = f"{self.images} held-out image{'s' if self.images > 1 else ''}"
        parts = [f"step {self.best.step:,}: loss {self.best.mean:.4f} on {images}"]
        if self.count == 1:
            parts.append("the only weights that were measured")
        elif self.best.step < self.last.step:
            parts.append(f"later ones are worse, step {self.last.step:,} by {describe(self.last.minus(self.lowest))}")
        elif self.best is self.lowest:
            parts.append(f"the lowest of {self.count} that were measured")
        else:
            difference = describe(self.best.minus(self.lowest))
            parts.append(
                f"trained longest, and not distinguishable from the lowest, {self.lowest.mean:.4f} at step "
                f"{self.lowest.step:,} (difference {difference})"
            )
        if self.start is not None and self.no_better_than_start:
            parts.append(f"but not distinguishable from the start of the run, {self.start.mean:.4f}")
        if self.weak:
            parts.append(f"weak evidence: hold {ENOUGH_IMAGES} images or more out")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """The choice as JSON data without names, for the events and for the metadata of the file."""
        difference = self.last.minus(self.lowest)
        return {
            "best_step": self.best.step,
            "loss": self.best.mean,
            "lowest_step": self.lowest.step,
            "lowest_loss": self.lowest.mean,
            "last_step": self.last.step,
            "last_above_lowest": [difference.mean, difference.low, difference.high],
            "images": self.images,
            "measured": self.count,
            "weak": self.weak,
            "no_better_than_start": self.no_better_than_start,
            "reason": self.reason,
        }


def choose(measured: Sequence[HeldOutLoss], start: HeldOutLoss | None = None) -> Choice:
    """The best of the weights that were measured, in the order of their steps (at least one)."""
    lowest = min(measured, key=lambda weights: weights.mean)
    good = [weights for weights in measured if not weights.is_worse_than(lowest)]
    return Choice(good[-1], lowest, measured[-1], start, len(measured))


def describe(difference: Interval) -> str:
    """A difference of two losses or likenesses with its interval, as far as it has one."""
    if not difference.has_ends:
        return f"{difference.mean:.4f}"
    return f"{difference.mean:.4f}, {CONFIDENCE_TEXT} {difference.low:.4f} to {difference.high:.4f}"


def losses_by_step(validations: Sequence[dict[str, Any]]) -> dict[int, HeldOutLoss]:
    """The held-out losses of the events `validation`, by step. Events of older versions and losses that are not finite
    are left out; of one step, the last event counts."""
    losses: dict[int, HeldOutLoss] = {}
    for event in validations:
        by_image = numbers(event.get("by_image"))
        by_timestep = event.get("by_t")
        if by_image:
            step = int(event["step"])
            at_timesteps = numbers(list(by_timestep.values()) if isinstance(by_timestep, dict) else None)
            losses[step] = HeldOutLoss(step, by_image, at_timesteps)
    # images that were added to a folder between two sessions make losses incomparable
    count = len(next(reversed(losses.values())).by_image) if losses else 0
    return {step: loss for step, loss in losses.items() if len(loss.by_image) == count}


def numbers(values: Any) -> tuple[float, ...]:
    """A list of an event as numbers; empty if one of them is none, or is not finite."""
    if not isinstance(values, list) or not all(isinstance(value, int | float) and isfinite(value) for value in values):
        return ()
    return tuple(float(value) for value in values)
