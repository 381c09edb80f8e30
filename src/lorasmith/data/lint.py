"""What is probably wrong with images and captions, though they can be trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lorasmith.data.buckets import Placement
from lorasmith.data.dataset import Dataset
from lorasmith.data.images import decode
from lorasmith.data.scan import ImageRecord
from lorasmith.data.transforms import CaptionTransform, ImageTransform

Severity = Literal["warning", "note"]

TINY = 2.0
"""An image is tiny if it is enlarged more than this on a side."""
EXTREME = 0.4
"""A crop is extreme if it cuts off more than this share."""
NEAR = 4
"""Two images are near-duplicates if at most this many of 64 bits differ."""

DRAWS = 8
"""A trigger word is missing if none of so many forms of a caption has it."""


@dataclass(frozen=True)
class ImageProblem:
    """One thing about one image. `kind`: tiny, crop, no_caption, empty_caption, trigger, duplicate, mask,
    transform, or skipped."""

    path: Path
    kind: str
    text: str
    severity: Severity


def lint(dataset: Dataset, trigger: Sequence[str] = ()) -> list[ImageProblem]:
    """Everything suspicious about the images that are trained on, in their order.

    `trigger`: the words of which a caption should have at least one. Only near-duplicates need the pixels.
    """
    found = [ImageProblem(Path(p.where), "skipped", f"left out: {p.found}", "warning") for p in dataset.skipped]
    for record in dataset.records:
        changes = [t for t in dataset.transforms(record) if isinstance(t, ImageTransform)]
        found += sizes(record, dataset.placement(record), any(t.cuts for t in changes))
        found += captions(record, dataset, trigger)
        if record.mask == "alpha" and record.opaque:
            text = "has no transparent part, so all of it counts"
            found.append(ImageProblem(record.path, "mask", text, "note"))
        remarks = [text for text in (t.remark(record.path) for t in changes) if text]
        found += [ImageProblem(record.path, "transform", text, "note") for text in remarks]
    return [*but_of_other_things(found, dataset), *duplicates(dataset.records)]


def but_of_other_things(found: list[ImageProblem], dataset: Dataset) -> list[ImageProblem]:
    """Without the missing trigger words of folders in which no caption has one, if another folder's captions do:
    regularisation images show other things on purpose."""
    missing = {problem.path for problem in found if problem.kind == "trigger"}
    with_word = {r.path.parent for r in dataset.records if r.caption and r.path not in missing}
    return [p for p in found if p.kind != "trigger" or not with_word or p.path.parent in with_word]


def sizes(record: ImageRecord, place: Placement, cuts: bool) -> Iterator[ImageProblem]:
    """Enlarged or cut much, unless a transform cuts on purpose."""
    width, height = record.size
    scale = max(place.resized[0] / width, place.resized[1] / height)
    if scale > TINY:
        text = f"{width} x {height} is enlarged {scale:.1f} times; it will be trained blurred"
        yield ImageProblem(record.path, "tiny", text, "warning")
    if place.lost > EXTREME and not cuts:
        bucket = f"{place.bucket[0]} x {place.bucket[1]}"
        text = f"{width} x {height} loses {place.lost:.0%} in the crop to {bucket}; cut it by hand"
        yield ImageProblem(record.path, "crop", text, "warning")


def captions(record: ImageRecord, dataset: Dataset, trigger: Sequence[str]) -> Iterator[ImageProblem]:
    """Missing, empty, or without a trigger word in what is trained on."""
    transforms = [t for t in dataset.transforms(record) if isinstance(t, CaptionTransform)]
    if not record.captions:
        yield ImageProblem(record.path, "no_caption", "has no caption file and no fallback caption", "warning")
    elif not all(record.captions):
        yield ImageProblem(record.path, "empty_caption", "has an empty caption", "warning")
    for text in record.captions:
        seen = [changed(text, transforms, Random(i)) for i in range(DRAWS)]
        if text and trigger and not any(word.lower() in form.lower() for word in trigger for form in seen):
            what = f'the caption "{text}" has no trigger word ({", ".join(trigger)})'
            yield ImageProblem(record.path, "trigger", what, "warning")


def changed(caption: str, transforms: Sequence[CaptionTransform], random: Random) -> str:
    """A caption as it may be trained on."""
    for transform in transforms:
        caption = transform(caption, random)
    return caption


def duplicates(records: Sequence[ImageRecord]) -> list[ImageProblem]:
    """Images that look like an earlier one: the same bytes, or nearly the same picture."""
    with ThreadPoolExecutor(4) as pool:
        hashes = np.array(list(pool.map(fingerprint, records)), dtype=np.uint8)
    found = []
    for i, record in enumerate(records[1:], 1):
        differing = np.unpackbits(hashes[:i] ^ hashes[i], axis=1).sum(axis=1)
        nearest = int(differing.argmin())
        other = records[nearest]
        same = next((r for r in records[:i] if r.digest == record.digest), None)
        if same is not None:
            text = f"is the same file as {same.path}"
            found.append(ImageProblem(record.path, "duplicate", text, "warning"))
        elif differing[nearest] <= NEAR and abs(ratio(record) / ratio(other) - 1) < 0.1:
            found.append(ImageProblem(record.path, "duplicate", f"looks like {other.path}", "note"))
    return found


def ratio(record: ImageRecord) -> float:
    """Width by height."""
    return record.size[0] / record.size[1]


def fingerprint(record: ImageRecord) -> NDArray[np.uint8]:
    """A 64-bit difference hash as 8 bytes: which of 9 x 8 grey areas is brighter than its right neighbour."""
    grey = decode(record.path.read_bytes())[0].convert("L").resize((9, 8), Image.Resampling.BOX)
    values = np.asarray(grey, dtype=np.int16)
    return np.packbits((values[:, :-1] > values[:, 1:]).flatten())
