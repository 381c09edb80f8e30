"""Image records: what is known of an image after its file has been read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lorasmith.data.config import BucketConfig
from lorasmith.data.transforms import Transform


@dataclass(frozen=True)
class ImageRecord:
    """An image with its captions and settings. `size` is (width, height) after EXIF rotation, `digest` the SHA-256 of
    the file.

    `captions` is empty if there is none. `mask_digest` is the SHA-256 of the mask's file, if it has one.
    `concept_masks`: for each concept that the image has a mask of, the concept's word, the mask's file and its
    SHA-256. `condition_images`: the same for the pictures of conditions, by the names of the conditions. `resolution`
    (width, height), `batch_size` and `buckets` are set if they differ from the data set's. `opaque`: the file has no
    alpha channel.
    """

    path: Path
    captions: tuple[str, ...]
    repeats: int
    size: tuple[int, int]
    digest: str
    loss_weight: float = 1.0
    mask: Path | Literal["alpha"] | None = None
    mask_digest: str = ""
    transforms: tuple[Transform, ...] = ()
    resolution: tuple[int, int] | None = None
    batch_size: int | None = None
    buckets: BucketConfig | None = None
    hold_out: bool = True
    masks_weigh: bool = True
    preserve: bool = False
    resize: str = "auto"
    opaque: bool = True
    concept_masks: tuple[tuple[str, Path, str], ...] = ()
    condition_images: tuple[tuple[str, Path, str], ...] = ()

    @property
    def concepts(self) -> tuple[str, ...]:
        """The words of the concepts that the image has masks of."""
        return tuple(word for word, _, _ in self.concept_masks)

    @property
    def caption(self) -> str:
        """The first caption, or an empty text."""
        return self.captions[0] if self.captions else ""

    def training_content(self) -> list[Any]:
        """Everything about the image that decides what is trained, as JSON data; not where its files are.

        The fingerprint of a data set is a hash of this, so the layout must stay: settings that were added later appear
        only where they differ from their default.
        """
        content: list[Any] = [
            self.digest,
            self.captions,
            self.repeats,
            self.loss_weight,
            self.mask_digest or self.mask,
            [transform.model_dump(mode="json") for transform in self.transforms],
        ]
        if not self.masks_weigh:
            content.append(["masks_weigh", False])
        if self.preserve:
            content.append(["preserve", True])
        for key in ("concept_masks", "condition_images"):
            files = getattr(self, key)
            if files:
                content.append([key, [[name, digest] for name, _, digest in files]])
        if self.resize != "auto":
            content.append(["resize", self.resize])
        if self.resolution is not None:
            content.append(["resolution", self.resolution])
        if self.batch_size is not None:
            content.append(["batch_size", self.batch_size])
        if self.buckets is not None:
            content.append(["buckets", self.buckets.model_dump(mode="json")])
        return content


def without_copies(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """The first record of each image file; files with the same bytes are copies. In the order of the last copies."""
    first_by_digest = {record.digest: record for record in reversed(records)}
    return list(reversed(first_by_digest.values()))
