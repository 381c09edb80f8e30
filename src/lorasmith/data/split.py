"""Reading the images of all subsets, and dividing them into images to train on and held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorasmith.core.errors import ConfigError, Problem
from lorasmith.core.rng import derive
from lorasmith.data.config import DataConfig, SubsetConfig
from lorasmith.data.folder_contents import FolderContents
from lorasmith.data.missing_captions import fill_missing_captions
from lorasmith.data.records import ImageRecord, without_copies
from lorasmith.data.remarks import Remark
from lorasmith.data.scan import ScanResult, scan


@dataclass
class SplitData:
    """The images of a run: those to train on, and held-out ones; images that could not be read and are left out;
    remarks on the folders, and what became of their files."""

    trained: list[ImageRecord]
    held_out: list[ImageRecord]
    skipped: list[Problem]
    remarks: list[Remark]
    contents: list[FolderContents]


def read_and_split(config: DataConfig, seed: int, default_caption: str | None = None) -> SplitData:
    """Read all images and divide them. `default_caption`: of images without one; empty: there is none, so that such
    images are a problem; None: they keep the empty text.

    Raises ConfigError with every problem of every file.
    """
    scanned = scan_subsets(config, default_caption)
    validation_scan = ScanResult()
    held_out: list[ImageRecord] = []
    if config.validation.images is not None:
        validation_scan = _scan(validation_subset(config), "data.validation", config, default_caption)
        held_out = without_copies(validation_scan.records)
    elif config.validation.split:
        split_seed = seed if config.validation.seed is None else config.validation.seed
        held_out = choose_held_out(scanned.records, split_seed, config.validation.split)

    # Compared by content, so that a copy of a held-out image is not trained on either.
    held_out_digests = {record.digest for record in held_out}
    trained = [record for record in scanned.records if record.digest not in held_out_digests]

    # All problems are reported together, so that they can be repaired in one go.
    problems = scanned.problems + validation_scan.problems
    if not trained and not problems:
        problems.append(nothing_to_train_on(scanned.records))
    if problems:
        raise ConfigError(problems, "the data")
    scanned.add(validation_scan)
    return SplitData(trained, held_out, scanned.skipped, scanned.remarks, scanned.contents)


def nothing_to_train_on(records: Sequence[ImageRecord]) -> Problem:
    """Why no image is trained on. `records`: the images that were read."""
    if not records:
        return Problem(
            "data", "every image is left out by larger_than", remedy="use larger images, or a smaller larger_than"
        )
    what = "all images are held out, none is left to train on"
    return Problem("data.validation", what, remedy="add images, or hold none out")


def _scan(subset: SubsetConfig, key: str, config: DataConfig, default_caption: str | None) -> ScanResult:
    """The images of a subset, with the default caption where they have none."""
    scanned = scan(subset, key, config.skip_bad_images)
    if default_caption is not None:
        fill_missing_captions(scanned, subset, key, config, default_caption)
    return scanned


def scan_subsets(config: DataConfig, default_caption: str | None) -> ScanResult:
    """The images of all subsets, in their order."""
    result = ScanResult()
    for index, subset in enumerate(config.sources):
        # Problems name the key that the user wrote: a single source may be written without `subsets`.
        key = f"data.subsets.{index}" if len(config.sources) > 1 else "data"
        result.add(_scan(subset, key, config, default_caption))
    return result


def validation_subset(config: DataConfig) -> SubsetConfig:
    """The folder of held-out images, with the caption settings of the first source, so that a fallback caption holds
    for both."""
    assert config.validation.images is not None
    first = config.sources[0]
    return SubsetConfig(
        images=config.validation.images,
        caption=first.caption,
        caption_extension=first.caption_extension,
        empty_captions=first.empty_captions,
    )


def choose_held_out(records: Sequence[ImageRecord], seed: int, share: float) -> list[ImageRecord]:
    """A share of the images that may be held out, at least one. Copies of an image count once.

    Images are ranked by a hash of their content, so the choice does not depend on file names or order.
    """
    candidates = without_copies([record for record in records if record.hold_out])
    if not candidates:
        return []
    ranked = sorted(candidates, key=lambda record: derive(seed, "validation", record.digest))
    # At least one: who asks for a share wants to see a validation loss.
    count = max(1, round(share * len(candidates)))
    digests = {record.digest for record in ranked[:count]}
    return [record for record in candidates if record.digest in digests]
