"""The extension point of transforms, of two sorts: for captions and for images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from lorasmith.core.registry import Component
from lorasmith.data.placement import Crop, Placement, Size
from lorasmith.moved_modules import renamed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CaptionTransform", "Crop", "ImageTransform", "Sample", "TrainingProgress", "Transform"]


@dataclass(frozen=True)
class Sample:
    """An image in the size of its bucket: pixels (H, W, 3) uint8 and, if it has one, a mask (H, W) float32 in 0..1.

    `filled` (H, W) float32: 1 where the image is, 0 where black surrounds it; None if the image fills the bucket.
    `concepts` (H, W, N) float32: masks of single concepts. `conditions` (H, W, 3 N) uint8: the pictures of conditions.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.float32] | None = None
    filled: NDArray[np.float32] | None = None
    concepts: NDArray[np.float32] | None = None
    conditions: NDArray[np.uint8] | None = None

    def map(self, function_name: str, *args: object) -> Sample:
        """The sample with the numpy function of this name applied to the pixels, to all masks and to the pictures of
        conditions."""
        import numpy as np

        function = getattr(np, function_name)
        names = ("pixels", "mask", "filled", "concepts", "conditions")
        arrays = {name: getattr(self, name) for name in names}
        changed = {
            name: np.ascontiguousarray(function(array, *args)) for name, array in arrays.items() if array is not None
        }
        return replace(self, **changed)


@dataclass(frozen=True)
class TrainingProgress:
    """The point of a run at which a view is used: `epoch` and `step`, from 0, of a run of `steps` steps."""

    epoch: int = 0
    step: int = 0
    steps: int = 1


class Transform(Component, root="transform"):
    """A change of a caption or an image. Random numbers come only from the `Random` that a transform is given, which
    is seeded by the position in the run."""

    @property
    def random(self) -> bool:
        """Whether the result may differ each time. Held-out images skip such transforms."""
        return False


class CaptionTransform(Transform):
    """Changes the caption."""

    def at(self, moment: TrainingProgress) -> Callable[[str, Random], str]:
        """What the transform does at a point of the run. Default: the same everywhere."""
        return self

    @abstractmethod
    def __call__(self, caption: str, random: Random) -> str:
        """The caption that is trained on."""

    def outcomes(self, caption: str) -> set[str] | None:
        """Every possible result at any point of the run, so that all can be cached; None if there are too many."""
        return None if self.random else {self(caption, Random(0))}


class ImageTransform(Transform):
    """Changes the image. A transform has a few `variants`, so that all of them can be cached, or countless ones."""

    @property
    def variants(self) -> int | None:
        """How many different results there are for one image. None: each view is different and is encoded in each
        step; the number of the variant is then a seed."""
        return 1

    @property
    def random(self) -> bool:
        return self.variants != 1

    @property
    def cuts(self) -> bool:
        """Whether the transform chooses the crop. Such a transform changes nothing else: its `apply` returns the sample
        unchanged."""
        return False

    def cut(self, path: Path, size: Size, place: Placement, variant: int) -> Crop | None:
        """The crop that a variant takes of an image file of `size`, (width, height); None to leave the choice to other
        transforms."""
        return None

    def remark(self, path: Path) -> str:
        """What `lorasmith check` reports of an image file to which the transform cannot be applied."""
        return ""

    @abstractmethod
    def apply(self, sample: Sample, variant: int) -> Sample:
        """The sample changed by a variant: a number below `variants`, or a seed if that is None."""


def tags_of(caption: str, separator: str) -> list[str]:
    """The tags of a caption, without empty ones."""
    return [tag.strip() for tag in caption.split(separator) if tag.strip()]


def join_tags(tags: list[str], separator: str) -> str:
    """Tags as one caption: `a, b` for the separator `,`."""
    return f"{separator.strip()} ".join(tags)


def split_fixed_tags(
    caption: str, separator: str, keep: int, keep_separator: str
) -> tuple[list[str], list[str], list[str] | None]:
    """Fixed tags at the start, free ones, and fixed ones at the end, as sd-scripts divides a caption.

    With a `keep_separator` in the caption, the text before the first is fixed, and the text after the second. Without
    it, the first `keep` tags are fixed, and the last item is None.
    """
    if keep_separator and keep_separator in caption:
        first, free, *last = [tags_of(part, separator) for part in caption.split(keep_separator, 2)]
        return first, free, last[0] if last else []
    tags = tags_of(caption, separator)
    return tags[:keep], tags[keep:], None


def __getattr__(name: str) -> Any:
    """Old names, until version 0.3."""
    return renamed("data.transforms.base", name)
