"""Reads dataset configs: `general`, `datasets` and `subsets`, and the order in which values are looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorasmith.compat.kohya.options.data import INTERPOLATIONS
from lorasmith.compat.kohya.reading import read_file
from lorasmith.compat.options import Option
from lorasmith.core.errors import ConfigError, LorasmithError, Problem, did_you_mean

IMAGE_KEYS = (
    Option("num_repeats", "int", 1, to="data.repeats"),
    Option("keep_tokens", "int", 0),
    Option("token_warmup_min", "int", 1),
    Option("token_warmup_step", "float", 0),
    Option("shuffle_caption"),
    Option("color_aug"),
    Option("flip_aug"),
    Option("random_crop"),
    Option("enable_wildcard"),
    Option("caption_separator", "text", ","),
    Option("keep_tokens_separator", "text", ""),
    Option("secondary_separator", "text"),
    Option("caption_prefix", "text"),
    Option("caption_suffix", "text"),
    Option("resize_interpolation", "text", choices=tuple(INTERPOLATIONS)),
    Option("caption_dropout_rate", "float", 0.0),
    Option("caption_tag_dropout_rate", "float", 0.0),
    Option("caption_dropout_every_n_epochs", "int", 0),
    Option("face_crop_aug_range", "text"),
    Option("custom_attributes", "any", note="`diff_output_preservation` becomes `data.subsets.preserve`"),
    Option("caption_extension", "text", ".caption"),
    Option("cache_info"),
    Option("class_tokens", "text", to="data.caption"),
    Option("alpha_mask"),
    Option("masked_loss"),
)
"""In `general`, `datasets` and `subsets`. The original's documentation promises more than its code accepts."""
DATASET_KEYS = (
    Option("resolution", "text"),
    Option("skip_image_resolution", "text"),
    Option("batch_size", "int", 1),
    Option("bucket_reso_steps", "int", 64),
    Option("min_bucket_reso", "int", 256),
    Option("max_bucket_reso", "int", 1024),
    Option("enable_bucket"),
    Option("bucket_no_upscale"),
    Option("network_multiplier", "float", 1.0),
    Option("validation_split", "float", 0.0),
    Option("validation_seed", "int"),
)
"""In `general` and `datasets`. The keys of validation are also allowed in `subsets`, as the documentation says."""
SUBSET_KEYS = (
    Option("image_dir", "text", to="data.images"),
    Option("is_reg", to="data.subsets.loss_weight"),
    Option("metadata_file", "text", to="data.metadata"),
    Option("conditioning_data_dir", "text"),
)
"""In `subsets` only."""
OPTION_TO_KEY = {"train_batch_size": "batch_size", "dataset_repeats": "num_repeats"}
"""Options of the script that have another name as a key of the file."""


@dataclass(frozen=True)
class KohyaSubset:
    """A subset with a value for every key of `IMAGE_KEYS` and `SUBSET_KEYS`."""

    values: Mapping[str, Any]
    where: str
    """Where the subset is defined, for messages."""
    class_folders: bool = False
    """Whether `image_dir` contains `N_class` folders that could not be listed on this machine."""

    def __getitem__(self, key: str) -> Any:
        return self.values[key]


@dataclass(frozen=True)
class KohyaDataset:
    """A dataset with a value for every key of `DATASET_KEYS`, and its subsets."""

    values: Mapping[str, Any]
    subsets: tuple[KohyaSubset, ...]
    where: str = ""
    notes: list[str] = field(default_factory=list)


def read_dataset_config(path: Path, options: Mapping[str, Any]) -> list[KohyaDataset]:
    """The datasets of a file. `options`: the given options of the script, used where the file has no value.

    Raises ConfigError with all problems.
    """
    table = read_file(path)
    problems: list[Problem] = []
    report_unknown_keys(table, {"general": None, "datasets": None}, "", problems)
    # Values are looked up in the subset, the dataset, `general` and the options of the script, in this order.
    general = parse_table(table.get("general", {}), (*IMAGE_KEYS, *DATASET_KEYS), "general", problems)
    fallbacks = [general, keys_of_options(options)]
    dataset_tables = table.get("datasets", [])
    if not isinstance(dataset_tables, list) or not all(isinstance(entry, dict) for entry in dataset_tables):
        raise LorasmithError(f"{path}: datasets is not a list of tables; write [[datasets]]")
    datasets = [
        read_dataset(dataset_table, fallbacks, f"datasets.{index}", problems)
        for index, dataset_table in enumerate(dataset_tables)
    ]
    if not datasets:
        problems.append(Problem(str(path), "contains no dataset", remedy="add [[datasets]]"))
    if problems:
        raise ConfigError(problems, str(path))
    return datasets


def read_dataset(
    table: dict[str, Any], fallbacks: Sequence[Mapping[str, Any]], where: str, problems: list[Problem]
) -> KohyaDataset:
    """One dataset with its subsets. `fallbacks`: tables to look up values that the dataset does not have."""
    # Values of the dataset come before those of `general` and of the options.
    dataset_values = {key: value for key, value in table.items() if key != "subsets"}
    layers = [parse_table(dataset_values, (*IMAGE_KEYS, *DATASET_KEYS), where, problems), *fallbacks]
    subsets = [
        read_subset(subset_table, layers, f"{where}.subsets.{index}", problems)
        for index, subset_table in enumerate(table.get("subsets", []))
    ]
    if not subsets:
        problems.append(Problem(where, "has no subsets", remedy="add [[datasets.subsets]] with image_dir"))
    subsets, notes = remove_duplicates(subsets)
    values = look_up(DATASET_KEYS, layers)
    values["validation_split"] = common_validation_split(values["validation_split"], subsets, where, problems)
    return KohyaDataset(values, tuple(subsets), where, notes)


def read_subset(
    table: dict[str, Any], layers: Sequence[Mapping[str, Any]], where: str, problems: list[Problem]
) -> KohyaSubset:
    """One subset. `layers`: tables to look up values that the subset does not have."""
    validation_keys = tuple(option for option in DATASET_KEYS if option.name.startswith("validation"))
    subset_values = parse_table(table, (*IMAGE_KEYS, *SUBSET_KEYS, *validation_keys), where, problems)
    if not subset_values.get("image_dir") and not subset_values.get("metadata_file"):
        problems.append(Problem(where, "has neither image_dir nor metadata_file", remedy="name the folder of images"))
    values = look_up(IMAGE_KEYS, [subset_values, *layers])
    # These keys describe one subset, so they are not inherited.
    for option in SUBSET_KEYS:
        values[option.name] = subset_values.get(option.name, option.default)
    values["validation_split"] = subset_values.get("validation_split")
    return KohyaSubset(values, where)


def common_validation_split(
    dataset_split: float, subsets: Sequence[KohyaSubset], where: str, problems: list[Problem]
) -> float:
    """The validation split of a dataset, or that of its subsets, which must all have the same."""
    splits: set[float] = set()
    for subset in subsets:
        split = subset["validation_split"]
        splits.add(dataset_split if split is None else split)
    if len(splits) > 1:
        found = "differs between subsets"
        remedy = "write it once, in [[datasets]]"
        problems.append(Problem(f"{where}.validation_split", found, "the same value for all subsets", remedy))
    return next(iter(splits), dataset_split)


def keys_of_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the script under the names that they have in a dataset config."""
    return {OPTION_TO_KEY.get(name, name): value for name, value in options.items()}


def parse_table(table: Any, options: tuple[Option, ...], where: str, problems: list[Problem]) -> dict[str, Any]:
    """The given values in their types; None for values that are unset."""
    if not isinstance(table, dict):
        problems.append(Problem(where, f"found {table!r}", "a table"))
        return {}
    known = {option.name: option for option in options}
    table = keys_of_options(table)
    report_unknown_keys(table, known, where, problems)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            continue
        try:
            values[key] = known[key].parse(value)
        except ValueError as error:
            problems.append(Problem(f"{where}.{key}", f"found {value!r}", str(error)))
    return values


def report_unknown_keys(
    table: Mapping[str, Any], known: Mapping[str, Any], where: str, problems: list[Problem]
) -> None:
    """A problem for each unknown key, which the original refuses, too."""
    for key in table.keys() - known.keys():
        place = f"{where}.{key}" if where else key
        problems.append(Problem(place, "unknown key", ", ".join(sorted(known)), did_you_mean(key, known)))


def look_up(options: tuple[Option, ...], layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each value from the first layer that has it, else the default. An explicit 0 or false counts as a value."""
    values: dict[str, Any] = {}
    for option in options:
        default = False if option.type == "flag" else option.default
        present = (layer[option.name] for layer in layers if layer.get(option.name) is not None)
        values[option.name] = next(present, default)
    return values


def remove_duplicates(subsets: list[KohyaSubset]) -> tuple[list[KohyaSubset], list[str]]:
    """The subsets without those that name the same images again or have no repeats, and notes on these."""
    by_images: dict[tuple[str, str, bool], KohyaSubset] = {}
    notes: list[str] = []
    for subset in subsets:
        # The same folder may be used for training and for regularisation.
        images = (str(subset["image_dir"]), str(subset["metadata_file"]), bool(subset["is_reg"]))
        if subset["num_repeats"] < 1:
            notes.append(f"{subset.where} is ignored: num_repeats is {subset['num_repeats']}")
        elif images in by_images:
            notes.append(f"{subset.where} is ignored: it names the same images as {by_images[images].where}")
        else:
            by_images[images] = subset
    return list(by_images.values()), notes
