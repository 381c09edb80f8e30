"""The extension point of transforms, of two sorts: for captions and for images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lorasmith.core.registry import Component
from lorasmith.moved_modules import renamed

if TYPE_CHECKING:
    from lorasmith.data.buckets import Placement


@dataclass(frozen=True)
class Sample:
    """An image in the size of its bucket: pixels (H, W, 3) uint8 and, perhaps, a mask (H, W) float32 in 0..1.

    `filled` (H, W) float32: 1 where the image is, 0 where black surrounds it; None if it fills the bucket. `concepts`
    (H, W, N) float32: masks of single concepts.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.float32] | None = None
    filled: NDArray[np.float32] | None = None
    concepts: NDArray[np.float32] | None = None

    def map(self, change: str, *args: object) -> Sample:
        """The same numpy function on pixels and masks."""
        parts = {"pixels": self.pixels, "mask": self.mask, "filled": self.filled, "concepts": self.concepts}
        function = getattr(np, change)
        changed = {k: np.ascontiguousarray(function(v, *args)) for k, v in parts.items() if v is not None}
        return replace(self, **changed)


@dataclass(frozen=True)
class Cut:
    """What of an image is seen: the (width, height) that it is resized to, and the box (left, top, right, bottom) of
    that, which has the size of the bucket.

    Where the box reaches beyond the image, or beyond `seen`, a box of the same coordinates, it is black.
    """

    resized: tuple[int, int]
    box: tuple[int, int, int, int]
    seen: tuple[int, int, int, int] | None = None

    def filled(self) -> NDArray[np.float32] | None:
        """(H, W) of the bucket: 1 where the image is seen, 0 where it is black; None if it is black nowhere."""
        if self.seen is None:
            return None
        (left, top, right, bottom), seen = self.box, self.seen
        places = np.zeros((bottom - top, right - left), dtype=np.float32)
        places[max(0, seen[1] - top) : max(0, seen[3] - top), max(0, seen[0] - left) : max(0, seen[2] - left)] = 1
        return places


@dataclass(frozen=True)
class TrainingProgress:
    """When a view comes, for what changes in the course of a run: epoch and step, from 0, of a run of `steps`."""

    epoch: int = 0
    step: int = 0
    steps: int = 1


class Transform(Component, root="transform"):
    """A change of a sample. All draws come from the `Random` that is given: it is seeded by position."""

    @property
    def random(self) -> bool:
        """Whether it may do something else each time."""
        return False


class CaptionTransform(Transform):
    """Changes the caption."""

    def at(self, moment: TrainingProgress) -> Callable[[str, Random], str]:
        """What it does at a moment of the run: always the same, unless a kind says otherwise."""
        return self

    @abstractmethod
    def __call__(self, caption: str, random: Random) -> str:
        """The caption that is trained on."""

    def outcomes(self, caption: str) -> set[str] | None:
        """Every caption that can come out at any moment, so that all can be cached; None if there are too many."""
        return None if self.random else {self(caption, Random(0))}


class ImageTransform(Transform):
    """Changes the image, as one of a few `variants`, so that all of them can be cached; or in countless ways."""

    @property
    def variants(self) -> int | None:
        """How many different results there are for one image. None: each view is one of its own, encoded live; its
        variant is then a seed."""
        return 1

    @property
    def random(self) -> bool:
        return self.variants != 1

    @property
    def cuts(self) -> bool:
        """Whether it has a say in the cut. Such a transform changes nothing else: its `apply` gives the sample back."""
        return False

    def cut(self, path: Path, size: tuple[int, int], place: Placement, variant: int) -> Cut | None:
        """What a variant sees of an image file of `size`, (width, height); None: no say in it."""
        return None

    def remark(self, path: Path) -> str:
        """What `check` is to say of an image file that the transform can do nothing with."""
        return ""

    @abstractmethod
    def apply(self, sample: Sample, variant: int) -> Sample:
        """The image's variant in [0, variants), or of a seed."""


def tags_of(caption: str, separator: str) -> list[str]:
    """The tags of a caption, without empty ones."""
    return [tag.strip() for tag in caption.split(separator) if tag.strip()]


def joined(tags: list[str], separator: str) -> str:
    """Tags as one caption: `a, b` for the separator `,`."""
    return f"{separator.strip()} ".join(tags)


def __getattr__(name: str) -> Any:
    """Old names, until version 0.3."""
    return renamed("data.transforms.base", name)
