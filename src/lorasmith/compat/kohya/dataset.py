"""Dataset configs: `general`, `datasets` and `subsets`, and the order in which a value is searched."""

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
    Option("num_repeats", "int", 1),
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
    Option("class_tokens", "text"),
    Option("alpha_mask"),
    Option("masked_loss"),
)
"""In `general`, `datasets` and `subsets`. More lenient than the original where its own documents promise more."""
SIZE_KEYS = (
    Option("resolution", "text"),
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
"""In `general` and `datasets`; in `subsets` too for validation, as the original's document has it."""
SOURCE_KEYS = (
    Option("image_dir", "text"),
    Option("is_reg"),
    Option("metadata_file", "text"),
    Option("conditioning_data_dir", "text"),
)
"""In `subsets` alone."""
RENAMED = {"train_batch_size": "batch_size", "dataset_repeats": "num_repeats"}
"""Options of the script to keys of the file."""


@dataclass(frozen=True)
class Source:
    """A subset with every value found; `values` has all keys above."""

    values: Mapping[str, Any]
    where: str
    class_folders: bool = False
    """Whether `image_dir` holds `N_class` folders, and none could be listed."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True)
class Set:
    """One dataset: the values that hold for all its images, and its sources."""

    values: Mapping[str, Any]
    sources: tuple[Source, ...]
    where: str = ""
    notes: list[str] = field(default_factory=list)


def read_dataset(path: Path, arguments: Mapping[str, Any]) -> list[Set]:
    """The datasets of a file. `arguments`: the script's options that were given, which stand below the file's values.

    Raises ConfigError with everything that is wrong.
    """
    table = read_file(path)
    problems: list[Problem] = []
    below = {RENAMED.get(key, key): value for key, value in arguments.items()}
    unknown_in(table, {"general": None, "datasets": None}, "", problems)
    general = typed(table.get("general", {}), (*IMAGE_KEYS, *SIZE_KEYS), "general", problems)
    sets = []
    datasets = table.get("datasets", [])
    if not isinstance(datasets, list) or not all(isinstance(d, dict) for d in datasets):
        raise LorasmithError(f"{path}: datasets is not a list of tables; write [[datasets]]")
    for i, dataset in enumerate(datasets):
        where = f"datasets.{i}"
        rest = {key: value for key, value in dataset.items() if key != "subsets"}
        own = typed(rest, (*IMAGE_KEYS, *SIZE_KEYS), where, problems)
        layers = [own, general, below]
        sources = [
            source_of(subset, layers, f"{where}.subsets.{j}", problems)
            for j, subset in enumerate(dataset.get("subsets", []))
        ]
        if not sources:
            problems.append(Problem(where, "has no subsets", remedy="add [[datasets.subsets]] with image_dir"))
        kept, notes = distinct(sources)
        values = searched(SIZE_KEYS, layers)
        values["validation_split"] = split_of(values["validation_split"], kept, where, problems)
        sets.append(Set(values, kept, where, notes))
    if not sets:
        problems.append(Problem(str(path), "there is no dataset in it", remedy="add [[datasets]]"))
    if problems:
        raise ConfigError(problems, str(path))
    return sets


def source_of(
    subset: dict[str, Any], layers: Sequence[Mapping[str, Any]], where: str, problems: list[Problem]
) -> Source:
    """One subset."""
    validation = tuple(option for option in SIZE_KEYS if option.name.startswith("validation"))
    own = typed(subset, (*IMAGE_KEYS, *SOURCE_KEYS, *validation), where, problems)
    if not own.get("image_dir") and not own.get("metadata_file"):
        problems.append(Problem(where, "has neither image_dir nor metadata_file", remedy="name the folder of images"))
    values = searched(IMAGE_KEYS, [own, *layers]) | {o.name: own.get(o.name, o.default) for o in SOURCE_KEYS}
    return Source(values | {"validation_split": own.get("validation_split")}, where)


def split_of(shared: float, sources: Sequence[Source], where: str, problems: list[Problem]) -> float:
    """The share of images held out, of a dataset or of its subsets, which must agree."""
    found = {shared if source.validation_split is None else source.validation_split for source in sources}
    if len(found) > 1:
        remedy = "write it once, in [[datasets]]"
        problems.append(Problem(f"{where}.validation_split", "differs between subsets", "the same for all", remedy))
    return next(iter(found), shared)


def typed(table: Any, options: tuple[Option, ...], where: str, problems: list[Problem]) -> dict[str, Any]:
    """The given values in their types; None where a value is as good as absent."""
    if not isinstance(table, dict):
        problems.append(Problem(where, f"found {table!r}", "a table"))
        return {}
    known = {option.name: option for option in options}
    table = {RENAMED.get(key, key): value for key, value in table.items()}
    unknown_in(table, known, where, problems)
    found: dict[str, Any] = {}
    for key, value in table.items():
        if key in known:
            try:
                found[key] = known[key].parse(value)
            except ValueError as error:
                problems.append(Problem(f"{where}.{key}", f"found {value!r}", str(error)))
    return found


def unknown_in(table: Mapping[str, Any], known: Mapping[str, Any], where: str, problems: list[Problem]) -> None:
    """Keys that the original refuses, too."""
    for key in table.keys() - known.keys():
        place = f"{where}.{key}" if where else key
        problems.append(Problem(place, "unknown key", ", ".join(sorted(known)), did_you_mean(key, known)))


def searched(options: tuple[Option, ...], layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each value from the first layer that has it; an explicit 0 or false counts."""
    found = {}
    for option in options:
        values = (layer[option.name] for layer in layers if layer.get(option.name) is not None)
        found[option.name] = next(values, False if option.type == "flag" else option.default)
    return found


def distinct(sources: list[Source]) -> tuple[tuple[Source, ...], list[str]]:
    """Without sources that come again, or that are to be repeated less than once; and what was left out."""
    kept: dict[tuple[str, str, bool], Source] = {}
    notes = []
    for source in sources:
        key = (str(source.image_dir), str(source.metadata_file), bool(source.is_reg))
        if source.num_repeats < 1:
            notes.append(f"{source.where} is left out: num_repeats is {source.num_repeats}")
        elif key in kept:
            notes.append(f"{source.where} is left out: it names the same images as {kept[key].where}")
        else:
            kept[key] = source
    return tuple(kept.values()), notes
