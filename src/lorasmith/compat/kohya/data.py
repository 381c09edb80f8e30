"""From folders of images or a dataset config to our `data`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorasmith.compat.kohya.dataset import KohyaDataset, KohyaSubset, read_dataset_config
from lorasmith.compat.kohya.folders import dataset_of_folders
from lorasmith.compat.kohya.options.data import INTERPOLATIONS
from lorasmith.compat.kohya.regularisation import ImageRange, image_ranges
from lorasmith.compat.kohya.transforms import convert_transforms
from lorasmith.compat.script import Parsed
from lorasmith.core.errors import Problem

SUBSET_SETTINGS = ("resolution", "batch_size", "buckets")
"""Settings of `data` that a subset may override."""
KEPT_IF_FALSE = ("class_folders", "hold_out")
"""Keys of a subset that are written even if they are false."""


def convert_data(parsed: Parsed, notes: list[str], problems: list[Problem]) -> dict[str, Any]:
    """The table `data`."""
    values = parsed.values

    # A default of the script must not hide a value of the dataset config, so only given options are passed on.
    given = {name: values[name] for name in parsed.given}
    datasets = find_datasets(values, given, notes, problems)
    if not datasets:
        return {}
    for dataset in datasets:
        notes += dataset.notes

    # The settings of the first dataset are those of `data`; subsets of the other datasets override what differs.
    settings = [convert_settings(dataset, notes, problems) for dataset in datasets]
    table = dict(settings[0])
    validation = convert_validation_split(datasets, problems)
    if validation:
        table["validation"] = validation
    table["subsets"] = []
    for dataset, own_settings in zip(datasets, settings, strict=True):
        overrides = different_settings(own_settings, table)
        threshold = parse_size(dataset.values["skip_image_resolution"], "skip_image_resolution", problems)
        if threshold is not None:
            overrides["larger_than"] = threshold
        for images in image_ranges(dataset, threshold):
            subset = convert_subset(images, values, notes, problems)
            table["subsets"].append(subset | overrides)
    if len(datasets) > 1 and not problems:
        notes.append(
            "the datasets are combined here: a batch may contain images of all of them that have the same size"
        )

    # The original's default of 8 workers is not used: with cached latents they are not needed.
    table["workers"] = given.get("max_data_loader_n_workers", 0)
    if table["workers"]:
        notes.append("max_data_loader_n_workers has an effect only if latents cannot be cached")
    return table


def find_datasets(
    values: Mapping[str, Any], given: Mapping[str, Any], notes: list[str], problems: list[Problem]
) -> list[KohyaDataset]:
    """The datasets that dataset_config, or else the options of folders, name."""
    # As in the original, a dataset config replaces the options of folders.
    if values["dataset_config"]:
        for name in ("train_data_dir", "reg_data_dir", "in_json"):
            if values[name]:
                notes.append(f"{name} is ignored: dataset_config replaces it")
        return read_dataset_config(Path(values["dataset_config"]), given)
    if values["train_data_dir"] or values["in_json"]:
        dataset = dataset_of_folders(given)
        if not dataset.subsets:
            found = f'"{values["train_data_dir"]}" has no folders such as 10_name'
            remedy = "put the images into such a folder; 10 is the number of times that an epoch uses each image"
            problems.append(Problem("train_data_dir", found, remedy=remedy))
        return [dataset]
    remedy = "name a folder that contains N_class folders in train_data_dir, or a dataset_config"
    problems.append(Problem("train_data_dir", "missing: there are no images", remedy=remedy))
    return []


def convert_validation_split(datasets: Sequence[KohyaDataset], problems: list[Problem]) -> dict[str, Any]:
    """The table `data.validation`: one split for all datasets; empty if nothing is held out."""
    first = datasets[0]
    split = first.values["validation_split"]
    splits = [dataset.values["validation_split"] for dataset in datasets]
    for dataset, own_split in zip(datasets, splits, strict=True):
        if own_split != split:
            found = f"{own_split} here and {split} in {first.where}"
            remedy = "write it once, in [general]"
            where = f"{dataset.where}.validation_split"
            problems.append(Problem(where, found, "the same value for all datasets", remedy))
    # The first seed that is given holds for all datasets.
    if not any(splits):
        return {}
    table = {"split": split}
    seeds = [dataset.values["validation_seed"] for dataset in datasets]
    seeds = [seed for seed in seeds if seed is not None]
    if seeds:
        table["seed"] = seeds[0]
    return table


def convert_settings(dataset: KohyaDataset, notes: list[str], problems: list[Problem]) -> dict[str, Any]:
    """Resolution, batch size and buckets of one dataset."""
    values = dataset.values
    resolution = parse_resolution(values["resolution"], problems)
    buckets: dict[str, Any] = {"enabled": bool(values["enable_bucket"])}
    if values["enable_bucket"]:
        buckets["upscale"] = not values["bucket_no_upscale"]
        sides = [resolution] if isinstance(resolution, int) else resolution
        step, low, high = values["bucket_reso_steps"], values["min_bucket_reso"], values["max_bucket_reso"]

        # The limits of our buckets are multiples of the step.
        smallest = low // step * step
        if smallest >= step and low <= min(sides) and high >= max(sides):
            buckets |= {"step": step, "min": smallest, "max": math.ceil(high / step) * step}
        else:
            notes.append(
                f"bucket sizes of {low} to {high} do not include the resolution {resolution}, which is an error in the "
                "original; here, the limits are derived from the resolution"
            )
    return {"resolution": resolution, "batch_size": values["batch_size"], "buckets": buckets}


def different_settings(settings: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one dataset that differ from the shared ones."""
    return {key: settings[key] for key in SUBSET_SETTINGS if settings[key] != shared[key]}


def parse_resolution(text: str | None, problems: list[Problem]) -> int | list[int]:
    """The resolution of a dataset; 512 if there is none."""
    return parse_size(text or "512", "resolution", problems) or 512


def parse_size(text: str | None, where: str, problems: list[Problem]) -> int | list[int] | None:
    """`512` or `512,768` (width, height) as one side or two; None if it is unset or, with a problem, no size."""
    if text is None or not str(text).strip():
        return None
    try:
        sides = [int(float(part)) for part in str(text).strip("[]() ").replace("x", ",").split(",") if part.strip()]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        problems.append(Problem(where, f"found {text!r}", '"512" or "512,768" (width, height)'))
        return None
    return sides[0] if len(set(sides)) == 1 else sides


def convert_subset(
    images: ImageRange, values: Mapping[str, Any], notes: list[str], problems: list[Problem]
) -> dict[str, Any]:
    """One table of `data.subsets`."""
    subset = images.subset
    extension = subset["caption_extension"]
    interpolation = subset["resize_interpolation"]
    table: dict[str, Any] = {
        "images": subset["image_dir"] or str(Path(subset["metadata_file"]).parent),
        "metadata": subset["metadata_file"],
        "part": list(images.bounds) if images.bounds else None,
        "repeats": images.repeats,
        "caption": subset["class_tokens"] or None,
        "caption_extension": [extension if extension.startswith(".") else f".{extension}"],
        "caption_lines": "any" if subset["enable_wildcard"] else "first",
        "class_folders": subset.class_folders,
        "resize": INTERPOLATIONS[interpolation.lower()] if interpolation else None,
        "transforms": convert_transforms(subset, problems),
    }
    # Regularisation images are never validation images.
    if subset["is_reg"]:
        table["loss_weight"] = values["prior_loss_weight"]
        table["hold_out"] = False
    if is_preserved(subset, problems):
        table["preserve"] = True
        # there, only regularisation images are kept from validation
        table["hold_out"] = not subset["is_reg"]
    table["masks"] = convert_masks(subset, bool(values["masked_loss"]), notes)
    # 0 is a value, also of loss_weight, and equal to False
    return {key: value for key, value in table.items() if not is_empty(value) or key in KEPT_IF_FALSE}


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: None, false, or an empty list."""
    return value is None or value is False or value == []


def is_preserved(subset: KohyaSubset, problems: list[Problem]) -> bool:
    """Whether the base's own output is the target (`diff_output_preservation`). Other attributes have no meaning."""
    attributes = subset["custom_attributes"]
    if attributes is None:
        return False
    if isinstance(attributes, dict):
        return bool(attributes.get("diff_output_preservation"))
    where = f"{subset.where}.custom_attributes"
    problems.append(Problem(where, f"found {attributes!r}", "a table such as { diff_output_preservation = true }"))
    return False


def convert_masks(subset: KohyaSubset, masked_loss: bool, notes: list[str]) -> str | None:
    """The folder of masks, or `alpha` for the images' alpha channels; None without masks."""
    folder = subset["conditioning_data_dir"]
    if folder and (masked_loss or subset["masked_loss"]):
        return folder
    if folder:
        notes.append(f"{subset.where}: conditioning_data_dir is ignored, because masked_loss is off")
    return "alpha" if subset["alpha_mask"] else None
