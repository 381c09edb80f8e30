"""Images and captions that can be trained on but are probably not what the user wants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lorasmith.data.caption_length import CaptionReader, reading_remarks
from lorasmith.data.dataset import Dataset
from lorasmith.data.images import decode
from lorasmith.data.missing_captions import caption_forms
from lorasmith.data.records import ImageRecord
from lorasmith.data.remarks import Remark
from lorasmith.data.transforms import CaptionTransform

MAX_ENLARGEMENT = 2.0
"""An image is tiny if a side is enlarged by more than this factor."""
MAX_LOST = 0.4
"""A crop is extreme if it cuts off more than this share of the image."""
MAX_HASH_DISTANCE = 4
"""Two images are near-duplicates if at most this many of the 64 bits of their hashes differ."""
MAX_RATIO_DIFFERENCE = 0.1
"""... and their aspect ratios differ by less than this share."""


def lint(
    dataset: Dataset, trigger: Sequence[str] = (), reader: CaptionReader | None = None, *, near_duplicates: bool = True
) -> list[Remark]:
    """Everything suspicious about the images that are trained on, in their order.

    `trigger`: words of which a caption should contain at least one. `reader`: how the model reads captions.
    `near_duplicates`: also find images that look like another one, the only search that reads pixels.
    """
    problems = [
        *dataset.remarks,
        *(
            Remark(Path(skipped.where), "skipped", f"left out: {skipped.found}", "warning")
            for skipped in dataset.skipped
        ),
    ]
    for record in dataset.records:
        problems += size_problems(record, dataset)
        problems += caption_problems(record, dataset, trigger, reader)
        if record.mask == "alpha" and record.opaque:
            text = "has no transparent part, so the loss counts everywhere"
            problems.append(Remark(record.path, "mask", text, "note"))
        for transform in dataset.image_transforms(record):
            remark = transform.remark(record.path)
            if remark:
                problems.append(Remark(record.path, "transform", remark, "note"))
    return [*without_regularisation_images(problems, dataset, trigger), *duplicates(dataset.records, near_duplicates)]


def size_problems(record: ImageRecord, dataset: Dataset) -> list[Remark]:
    """The image is enlarged or cropped much. Crops that a transform chooses are not reported."""
    problems: list[Remark] = []
    placement = dataset.placement(record)
    width, height = record.size
    scale = max(placement.resized[0] / width, placement.resized[1] / height)
    if scale > MAX_ENLARGEMENT:
        text = f"{width} x {height} is enlarged {scale:.1f} times; it will be trained blurred"
        problems.append(Remark(record.path, "tiny", text, "warning"))

    # Who sets up a transform for the crop knows that images are cropped.
    crop_is_chosen = any(transform.cuts for transform in dataset.image_transforms(record))
    if placement.lost > MAX_LOST and not crop_is_chosen:
        bucket = f"{placement.bucket[0]} x {placement.bucket[1]}"
        text = f"{width} x {height} loses {placement.lost:.0%} in the crop to {bucket}; crop it by hand"
        problems.append(Remark(record.path, "crop", text, "warning"))
    return problems


def caption_problems(
    record: ImageRecord, dataset: Dataset, trigger: Sequence[str], reader: CaptionReader | None
) -> list[Remark]:
    """The caption is missing, is empty, is not read as it is written, or has no trigger word after its transforms."""
    problems: list[Remark] = []
    # Transforms may add the trigger word, or remove it: what counts is the text that is trained on.
    transforms = dataset.caption_transforms(record)
    if not record.captions:
        if not any(form.strip() for form in caption_forms("", transforms)):
            text = "has no caption file and no fallback caption, so it is trained on the empty text"
            problems.append(Remark(record.path, "no_caption", text, "warning"))
    elif not all(record.captions):
        problems.append(Remark(record.path, "empty_caption", "has an empty caption", "warning"))

    for caption in record.captions or ("",):
        if reader is not None:
            problems += reading_remarks(record, caption_forms(caption, transforms), trigger, reader)
        if caption and trigger and not has_trigger(caption, transforms, trigger):
            text = f'the caption "{caption}" has no trigger word ({", ".join(trigger)})'
            problems.append(Remark(record.path, "trigger", text, "warning"))
    return problems


def has_trigger(caption: str, transforms: Sequence[CaptionTransform], trigger: Sequence[str]) -> bool:
    """Whether any of several random forms of a caption contains one of the trigger words."""
    forms = caption_forms(caption, transforms)
    return any(word.lower() in form.lower() for form in forms for word in trigger)


def without_regularisation_images(problems: list[Remark], dataset: Dataset, trigger: Sequence[str]) -> list[Remark]:
    """The problems without missing trigger words of folders in which no caption has one, if captions of another folder
    do: regularisation images show other things on purpose.

    Missing trigger words are serious if no caption that somebody wrote has one; captions of nothing but the trigger may
    be those of images without one.
    """
    others = [problem for problem in problems if problem.kind != "trigger"]
    missing = [problem for problem in problems if problem.kind == "trigger"]
    paths = {problem.path for problem in missing}
    with_trigger = [record for record in dataset.records if record.caption and record.path not in paths]
    return [*others, *serious_triggers(missing, with_trigger, trigger)]


def serious_triggers(
    missing: Sequence[Remark], with_trigger: Sequence[ImageRecord], trigger: Sequence[str]
) -> Iterator[Remark]:
    """The remarks on a missing trigger that are not on purpose, serious where no written caption has it."""
    folders = {record.path.parent for record in with_trigger}
    written = {record.path.parent for record in with_trigger if record.caption != " ".join(trigger)}
    for remark in missing:
        folder = remark.path.parent
        if folder in written:
            yield remark
        elif folder in folders or not folders:
            yield replace(remark, severity="serious")


def duplicates(records: Sequence[ImageRecord], near: bool) -> list[Remark]:
    """Images that are a copy of an earlier one: the same bytes or, with `near`, nearly the same picture."""
    hashes = np.empty((0, 8), dtype=np.uint8)
    if near:
        # Decoding releases the interpreter lock, so threads help.
        with ThreadPoolExecutor(4) as pool:
            hashes = np.array(list(pool.map(difference_hash, records)), dtype=np.uint8)

    problems: list[Remark] = []
    first_by_digest: dict[str, ImageRecord] = {}
    for i, record in enumerate(records):
        same_file = first_by_digest.setdefault(record.digest, record)
        if same_file is not record:
            text = f"is the same file as {same_file.path}"
            problems.append(Remark(record.path, "duplicate", text, "warning"))
        elif near and i > 0:
            # Compared with all earlier images at once.
            different_bits = np.unpackbits(hashes[:i] ^ hashes[i], axis=1)
            distances = different_bits.sum(axis=1)
            nearest = int(distances.argmin())
            # The hash does not see the shape of an image.
            ratio_difference = abs(aspect_ratio(record) / aspect_ratio(records[nearest]) - 1)
            if distances[nearest] <= MAX_HASH_DISTANCE and ratio_difference < MAX_RATIO_DIFFERENCE:
                text = f"looks like {records[nearest].path}"
                problems.append(Remark(record.path, "duplicate", text, "note"))
    return problems


def aspect_ratio(record: ImageRecord) -> float:
    """Width by height."""
    return record.size[0] / record.size[1]


def difference_hash(record: ImageRecord) -> NDArray[np.uint8]:
    """A 64-bit difference hash as 8 bytes: which of 9 x 8 grey areas is brighter than its right neighbour."""
    picture, _ = decode(record.path.read_bytes())
    grey = picture.convert("L").resize((9, 8), Image.Resampling.BOX)
    values = np.asarray(grey, dtype=np.int16)
    brighter = values[:, :-1] > values[:, 1:]
    return np.packbits(brighter.flatten())
