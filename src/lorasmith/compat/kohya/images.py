"""From datasets to our `data`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorasmith.compat.kohya.dataset import Set, Source, read_dataset
from lorasmith.compat.kohya.folders import Piece, pieces, plain_set
from lorasmith.compat.kohya.options.data import INTERPOLATIONS
from lorasmith.compat.script import Parsed
from lorasmith.core.errors import Problem

OFF = ("class_folders", "hold_out")
"""Keys of a subset that say something when they are false."""
OWN = ("resolution", "batch_size", "buckets")
"""What a subset may have of its own."""


def convert_data(parsed: Parsed, notes: list[str], problems: list[Problem]) -> dict[str, Any]:
    """The table `data`. What must be known goes into `notes`, what cannot be done into `problems`."""
    values = parsed.values
    given = {key: values[key] for key in parsed.given}
    if values["dataset_config"]:
        for name in ("train_data_dir", "reg_data_dir", "in_json"):
            if values[name]:
                notes.append(f"{name} is left out: dataset_config takes its place")
        sets = read_dataset(Path(values["dataset_config"]), given)
    elif values["train_data_dir"] or values["in_json"]:
        only, said = plain_set(given)
        notes += said
        sets = [only]
        if not only.sources:
            problems.append(
                Problem(
                    "train_data_dir",
                    f'"{values["train_data_dir"]}" has no folders such as 10_name',
                    remedy="put the images into such a folder: 10 views of each image in an epoch",
                )
            )
    else:
        remedy = "name a folder of N_class folders in train_data_dir, or a dataset_config"
        problems.append(Problem("train_data_dir", "missing: there are no images", remedy=remedy))
        return {}
    for one in sets:
        notes += one.notes
    tables = [size_of(one, notes, problems) for one in sets]
    table = (tables[0] if tables else {}) | shared_validation(sets, problems)
    table["subsets"] = []
    for one, own in zip(sets, tables, strict=True):
        extra = {key: own[key] for key in OWN if own[key] != table[key]}
        table["subsets"] += [subset_of(piece, values, notes, problems) | extra for piece in pieces(one)]
    if len(sets) > 1 and not problems:
        notes.append("the datasets are one here: a batch may hold images of all of them that have one size")
    table["workers"] = values["max_data_loader_n_workers"] if "max_data_loader_n_workers" in given else 0
    if table["workers"]:
        notes.append("max_data_loader_n_workers counts only where latents cannot be cached")
    return table


def shared_validation(sets: Sequence[Set], problems: list[Problem]) -> dict[str, Any]:
    """The table `validation`: one share for all datasets."""
    shares = [one.values["validation_split"] for one in sets]
    for one, share in zip(sets, shares, strict=True):
        if share != shares[0]:
            found = f"{share} here and {shares[0]} in {sets[0].where}"
            remedy = "write it once, in [general]"
            problems.append(Problem(f"{one.where}.validation_split", found, "the same for all datasets", remedy))
    seed = next((one.values["validation_seed"] for one in sets if one.values["validation_seed"] is not None), None)
    own = {} if seed is None else {"seed": seed}
    return {"validation": {"split": shares[0], **own}} if any(shares) else {}


def size_of(dataset: Set, notes: list[str], problems: list[Problem]) -> dict[str, Any]:
    """Resolution, batch and buckets of one dataset."""
    values = dataset.values
    sides = resolution_of(values["resolution"], problems)
    table: dict[str, Any] = {"resolution": sides, "batch_size": values["batch_size"]}
    buckets: dict[str, Any] = {"enabled": bool(values["enable_bucket"])}
    if values["enable_bucket"]:
        buckets["upscale"] = not values["bucket_no_upscale"]
        square = sides if isinstance(sides, int) else min(sides)
        largest = sides if isinstance(sides, int) else max(sides)
        step, low, high = values["bucket_reso_steps"], values["min_bucket_reso"], values["max_bucket_reso"]
        if low // step * step >= step and low <= square and high >= largest:
            buckets |= {"step": step, "min": low // step * step, "max": -(-high // step) * step}
        else:
            notes.append(
                f"buckets of {low} to {high} do not suit the resolution {sides}; the original stops, "
                "here they follow the resolution"
            )
    table["buckets"] = buckets
    return table


def resolution_of(text: str | None, problems: list[Problem]) -> int | list[int]:
    """`512`, `512,768` as a side or two."""
    try:
        sides = [int(float(part)) for part in str(text or "512").replace("x", ",").split(",") if part.strip()]
        if len(sides) not in (1, 2):
            raise ValueError
    except ValueError:
        problems.append(Problem("resolution", f"found {text!r}", '"512" or "512,768" (width, height)'))
        return 512
    return sides[0] if len(set(sides)) == 1 else sides


def subset_of(piece: Piece, values: Mapping[str, Any], notes: list[str], problems: list[Problem]) -> dict[str, Any]:
    """One of our subsets."""
    source, repeats, part = piece
    extension = source.caption_extension
    table: dict[str, Any] = {
        "images": source.image_dir or str(Path(source.metadata_file).parent),
        "metadata": source.metadata_file,
        "part": list(part) if part else None,
        "repeats": repeats,
        "caption": source.class_tokens or None,
        "caption_extension": [extension if extension.startswith(".") else f".{extension}"],
        "caption_lines": "any" if source.enable_wildcard else "first",
        "class_folders": source.class_folders,
        "resize": INTERPOLATIONS[source.resize_interpolation.lower()] if source.resize_interpolation else None,
        "transforms": transforms_of(source, problems),
    }
    if source.is_reg:
        table |= {"loss_weight": values["prior_loss_weight"], "hold_out": False}
    if preserved(source, problems):
        table["preserve"] = True
    masks = masks_of(source, bool(values["masked_loss"]), notes)
    if masks:
        table["masks"] = masks
    return {key: value for key, value in table.items() if value not in (None, [], False) or key in OFF}


def preserved(source: Source, problems: list[Problem]) -> bool:
    """Whether the base's own output is the target (`diff_output_preservation`); other attributes mean nothing."""
    attributes = source.custom_attributes
    if attributes is None or isinstance(attributes, dict):
        return bool((attributes or {}).get("diff_output_preservation"))
    where = f"{source.where}.custom_attributes"
    problems.append(Problem(where, f"found {attributes!r}", "a table such as { diff_output_preservation = true }"))
    return False


def masks_of(source: Source, asked: bool, notes: list[str]) -> str | None:
    """Where the loss counts."""
    asked = asked or bool(source.masked_loss)
    if source.conditioning_data_dir and asked:
        return source.conditioning_data_dir
    if source.conditioning_data_dir:
        notes.append(f"{source.where}: conditioning_data_dir is left out, since masked_loss is off")
    return "alpha" if source.alpha_mask else None


def transforms_of(source: Source, problems: list[Problem]) -> list[dict[str, Any]]:
    """The changes of captions in the original's order, then those of images."""
    found: list[dict[str, Any]] = []
    if source.caption_prefix or source.caption_suffix:
        words = [source.caption_prefix, "{caption}", source.caption_suffix]
        found.append({"kind": "template", "templates": [" ".join(word for word in words if word)]})
    if source.caption_dropout_rate or source.caption_dropout_every_n_epochs:
        every = {"every_epochs": source.caption_dropout_every_n_epochs or None}
        found.append(given({"kind": "caption_dropout", "rate": source.caption_dropout_rate, **every}))
    if source.enable_wildcard:
        found.append({"kind": "wildcard"})
    found += tags_of(source)
    if source.face_crop_aug_range:
        found += face_crop(source, problems)
    if source.random_crop:
        found.append({"kind": "random_crop"})
    if source.color_aug:
        found.append({"kind": "color"})
    if source.flip_aug:
        found.append({"kind": "flip"})
    return found


def face_crop(source: Source, problems: list[Problem]) -> list[dict[str, Any]]:
    """Crops around faces: `"2.0,4.0"`, from the closest to the widest."""
    given = source.face_crop_aug_range
    try:
        closest, widest = (float(part) for part in given.split(","))
        if not 0 < closest <= widest:
            raise ValueError
    except ValueError:
        where = f"{source.where}.face_crop_aug_range"
        problems.append(Problem(where, f'found "{given}"', 'two numbers in order, such as "2.0,4.0"'))
        return []
    return [{"kind": "face_crop", "closest": closest, "widest": widest, "wander": bool(source.random_crop)}]


def tags_of(source: Source) -> list[dict[str, Any]]:
    """Warm-up, shuffling and dropout of tags; the last two in one transform where separators tell the fixed ones."""
    shared = {"keep": source.keep_tokens, "separator": source.caption_separator or ","}
    found: list[dict[str, Any]] = []
    if source.token_warmup_step:
        own = {"until": source.token_warmup_step, "start": source.token_warmup_min}
        found.append(given({"kind": "tag_warmup", **own, **shared, "keep_separator": source.keep_tokens_separator}))
    if source.keep_tokens_separator or source.secondary_separator:
        table = {
            "kind": "tags",
            **shared,
            "keep_separator": source.keep_tokens_separator,
            "group_separator": source.secondary_separator,
            "shuffle": bool(source.shuffle_caption),
            "dropout": source.caption_tag_dropout_rate,
        }
        return [*found, given(table)]
    if source.shuffle_caption:
        found.append({"kind": "shuffle", **shared})
    if source.caption_tag_dropout_rate:
        found.append({"kind": "tag_dropout", "rate": source.caption_tag_dropout_rate, **shared})
    return found


def given(table: dict[str, Any]) -> dict[str, Any]:
    """The table without what is unset."""
    return {key: value for key, value in table.items() if value not in (None, "")}
