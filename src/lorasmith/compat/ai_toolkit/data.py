"""From ai-toolkit's data sets to our `data`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.core.errors import Problem

TAGS = ("[trigger]", "[name]")


def convert_data(values: Mapping[str, Any], datasets: list[dict[str, Any]], problems: list[Problem]) -> dict[str, Any]:
    """The table `data`: a subset for each data set and resolution. `datasets`: values by key, with their section."""
    if not datasets:
        problems.append(Problem("datasets", "missing: there are no images", remedy="add - folder_path: ..."))
    subsets: list[dict[str, Any]] = []
    for index, dataset in enumerate(datasets):
        subset = convert_subset(values, dataset, index, problems)
        resolutions = dataset["datasets.resolution"]
        for resolution in resolutions if isinstance(resolutions, list) else [resolutions]:
            if not isinstance(resolution, int):
                where = f"datasets.{index}.resolution"
                problems.append(Problem(where, f"found {resolution!r}", "a side in pixels, or a list of them"))
                continue
            subsets.append(subset | {"resolution": resolution})
    return {"batch_size": values["train.batch_size"], "subsets": subsets}


def convert_subset(
    values: Mapping[str, Any], dataset: Mapping[str, Any], index: int, problems: list[Problem]
) -> dict[str, Any]:
    """The subset of one data set, without its resolution."""
    folder = find_folder(dataset, index, problems)
    extension = dataset["datasets.caption_type"] or dataset["datasets.caption_ext"]
    square = dataset["datasets.square_crop"] or not dataset["datasets.buckets"]
    table: dict[str, Any] = {
        "images": folder,
        "recursive": True,
        "class_folders": False,
        "repeats": dataset["datasets.num_repeats"],
        "caption": folder_caption(Path(folder), extension) or dataset["datasets.default_caption"] or "",
        "caption_extension": [extension],
        "caption_lines": "first",
        "buckets": {"enabled": not square, "upscale": False, "step": dataset["datasets.bucket_tolerance"]},
        "transforms": convert_transforms(values, dataset, problems),
    }
    return table | convert_loss(values, dataset)


def find_folder(dataset: Mapping[str, Any], index: int, problems: list[Problem]) -> str:
    """The folder of a data set."""
    folder = str(dataset["datasets.folder_path"] or dataset["datasets.dataset_path"] or "")
    if not folder or Path(folder).suffix.lower() == ".json":
        found = "names a JSON file" if folder else "missing"
        problems.append(Problem(f"datasets.{index}.folder_path", found, "a folder", "put captions beside the images"))
    return folder or "."


def convert_loss(values: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, Any]:
    """What a data set sets about the loss of its images, masks included, and its batch size."""
    table: dict[str, Any] = {"batch_size": dataset["datasets.batch_size"], "preserve": dataset["datasets.prior_reg"]}
    weight = dataset["datasets.loss_multiplier"]
    table["masks"] = dataset["datasets.mask_path"] or ("alpha" if dataset["datasets.alpha_mask"] else None)
    table = {key: value for key, value in table.items() if value}
    if dataset["datasets.is_reg"]:
        weight *= values["train.reg_weight"]
        table["hold_out"] = False
    return table if weight == 1 else table | {"loss_weight": weight}


def folder_caption(folder: Path, extension: str) -> str:
    """The caption of `default.txt` in the folder, which counts for images without one of their own."""
    suffix = extension if extension.startswith(".") else f".{extension}"
    for name in (f"default{suffix}", "default.txt"):
        file = folder / name
        if file.is_file():
            return " ".join(file.read_text(encoding="utf-8", errors="replace").split())
    return ""


def convert_transforms(
    values: Mapping[str, Any], dataset: Mapping[str, Any], problems: list[Problem]
) -> list[dict[str, Any]]:
    """The changes of captions, then those of images, in the original's order."""
    trigger = str(dataset["datasets.trigger_word"] or values["trigger_word"] or "")
    transforms: list[dict[str, Any]] = []
    words = parse_replacements(dataset["datasets.replacements"], problems)
    if words:
        transforms.append({"kind": "replace", "words": words})
    keep, rate = dataset["datasets.keep_tokens"], dataset["datasets.token_dropout_rate"]
    if rate:
        transforms.append({"kind": "tag_dropout", "rate": rate, "keep": keep})
    if dataset["datasets.shuffle_tokens"]:
        transforms.append({"kind": "shuffle", "keep": 0})
    transforms.append({"kind": "replace", "words": dict.fromkeys(TAGS, trigger)})

    transforms += dropout_and_trigger(values, dataset, trigger)
    if dataset["datasets.random_crop"]:
        transforms.append({"kind": "random_crop"})
    if dataset["datasets.flip_x"]:
        transforms.append({"kind": "flip"})
    return transforms


def dropout_and_trigger(values: Mapping[str, Any], dataset: Mapping[str, Any], trigger: str) -> list[dict[str, Any]]:
    """The trigger of the whole run is put into dropped captions, too; that of a data set is not."""
    rate = dataset["datasets.caption_dropout_rate"]
    dropout = [{"kind": "caption_dropout", "rate": rate}] if rate else []
    injected = [{"kind": "trigger", "words": trigger}] if trigger and not dataset["datasets.is_reg"] else []
    return dropout + injected if values["trigger_word"] else injected + dropout


def parse_replacements(replacements: Any, problems: list[Problem]) -> dict[str, str]:
    """`["old|new", ...]` as a table."""
    words: dict[str, str] = {}
    for text in replacements or []:
        old, bar, new = str(text).partition("|")
        if bar:
            words[old] = new
        else:
            problems.append(Problem("datasets.replacements", f'found "{text}"', 'texts of the form "old|new"'))
    return words
