"""How often each image of a dataset is used: the repeats of its subsets, and the balance of regularisation images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorasmith.compat.kohya.dataset import KohyaDataset, KohyaSubset
from lorasmith.data.listing import images_in


@dataclass(frozen=True)
class ImageRange:
    """Consecutive images of a subset that have the same number of repeats."""

    subset: KohyaSubset
    repeats: int
    bounds: tuple[int, int] | None = None
    """Index of the first image and of the one after the last; None: all images of the subset."""


def image_ranges(dataset: KohyaDataset, larger_than: int | list[int] | None = None) -> list[ImageRange]:
    """The images of a dataset with their repeats. `larger_than`: smaller images are left out before they are counted.

    As in the original, an epoch has as many regularisation images as training images: the original goes through the
    regularisation images in order, uses each `num_repeats` times until there are enough, and if there are too few, goes
    through them again and adds each once.
    """
    training = [subset for subset in dataset.subsets if not subset["is_reg"]]
    regularisation = [subset for subset in dataset.subsets if subset["is_reg"]]
    ranges = [ImageRange(subset, subset["num_repeats"]) for subset in training]
    training_counts = count_images(training, larger_than)
    regularisation_counts = count_images(regularisation, larger_than)
    if training_counts is None or regularisation_counts is None:
        # The config may be converted on another machine than it runs on. Without the images nothing can be balanced.
        return ranges + [ImageRange(subset, subset["num_repeats"]) for subset in regularisation]

    # The regularisation images of all subsets are balanced together, then divided among the subsets again.
    training_views = sum(count * subset["num_repeats"] for subset, count in zip(training, training_counts, strict=True))
    initial_repeats: list[int] = []
    for subset, count in zip(regularisation, regularisation_counts, strict=True):
        initial_repeats += [subset["num_repeats"]] * count
    repeats = balance_repeats(initial_repeats, training_views)
    start = 0
    for subset, count in zip(regularisation, regularisation_counts, strict=True):
        ranges += split_by_repeats(subset, repeats[start : start + count])
        start += count
    return ranges


def balance_repeats(initial_repeats: list[int], training_views: int) -> list[int]:
    """The repeats of each regularisation image, so that together they are at least `training_views`."""
    repeats = [0] * len(initial_repeats)
    total = 0
    first_round = True
    while repeats and total < training_views:
        # The first round adds the repeats of each image, later rounds add one.
        for index, initial in enumerate(initial_repeats):
            if total >= training_views:
                break
            added = initial if first_round else 1
            repeats[index] += added
            total += added
        first_round = False
    return repeats


def split_by_repeats(subset: KohyaSubset, repeats: list[int]) -> list[ImageRange]:
    """Ranges of images with the same number of repeats. Images with 0 repeats are left out."""
    ranges: list[ImageRange] = []
    start = 0
    for end in range(1, len(repeats) + 1):
        if end < len(repeats) and repeats[end] == repeats[start]:
            continue
        if repeats[start]:
            bounds = None if (start, end) == (0, len(repeats)) else (start, end)
            ranges.append(ImageRange(subset, repeats[start], bounds))
        start = end
    return ranges


def count_images(subsets: list[KohyaSubset], larger_than: int | list[int] | None) -> list[int] | None:
    """The number of images of each subset that are large enough; None if one cannot be determined on this machine."""
    from lorasmith.data.image_sizes import too_small

    counts: list[int] = []
    for subset in subsets:
        if subset["metadata_file"] or subset.class_folders or not subset["image_dir"]:
            return None
        folder = Path(subset["image_dir"]).expanduser()
        if not folder.is_dir():
            return None
        images = images_in(folder, recursive=False)
        size = (larger_than[0], larger_than[1]) if isinstance(larger_than, list) else larger_than
        counts.append(len(images) - len(too_small(images, size)))
    return counts
