"""From the caption and image options of a subset to our `transforms`."""

from __future__ import annotations

from typing import Any

from lorasmith.compat.kohya.dataset import KohyaSubset
from lorasmith.core.errors import Problem


def convert_transforms(subset: KohyaSubset, problems: list[Problem]) -> list[dict[str, Any]]:
    """Changes of captions, then of images, in the original's order."""
    # Changes of captions
    transforms: list[dict[str, Any]] = []
    prefix, suffix = subset["caption_prefix"], subset["caption_suffix"]
    if prefix or suffix:
        template = " ".join(part for part in (prefix, "{caption}", suffix) if part)
        transforms.append({"kind": "template", "templates": [template]})
    dropout_rate, dropout_epochs = subset["caption_dropout_rate"], subset["caption_dropout_every_n_epochs"]
    if dropout_rate or dropout_epochs:
        dropout = {"kind": "caption_dropout", "rate": dropout_rate}
        if dropout_epochs:
            dropout["every_epochs"] = dropout_epochs
        transforms.append(dropout)
    if subset["enable_wildcard"]:
        transforms.append({"kind": "wildcard"})
    transforms += convert_tag_transforms(subset)

    # Changes of images
    if subset["face_crop_aug_range"]:
        transforms += convert_face_crop(subset, problems)
    for key, kind in (("random_crop", "random_crop"), ("color_aug", "color"), ("flip_aug", "flip")):
        if subset[key]:
            transforms.append({"kind": kind})
    return transforms


def convert_tag_transforms(subset: KohyaSubset) -> list[dict[str, Any]]:
    """Warm-up, shuffling and dropout of tags."""
    shared = {"keep": subset["keep_tokens"], "separator": subset["caption_separator"] or ","}
    keep_separator, group_separator = subset["keep_tokens_separator"], subset["secondary_separator"]
    transforms: list[dict[str, Any]] = []
    if subset["token_warmup_step"]:
        warmup = {
            "kind": "tag_warmup",
            "until": subset["token_warmup_step"],
            "start": subset["token_warmup_min"],
            **shared,
            "keep_separator": keep_separator,
        }
        transforms.append(without_unset(warmup))

    # Separators mark fixed tags and groups of tags. Only `tags`, which both shuffles and drops, handles them.
    if keep_separator or group_separator:
        tags = {
            "kind": "tags",
            **shared,
            "keep_separator": keep_separator,
            "group_separator": group_separator,
            "shuffle": bool(subset["shuffle_caption"]),
            "dropout": subset["caption_tag_dropout_rate"],
        }
        return [*transforms, without_unset(tags)]
    if subset["shuffle_caption"]:
        transforms.append({"kind": "shuffle", **shared})
    if subset["caption_tag_dropout_rate"]:
        transforms.append({"kind": "tag_dropout", "rate": subset["caption_tag_dropout_rate"], **shared})
    return transforms


def convert_face_crop(subset: KohyaSubset, problems: list[Problem]) -> list[dict[str, Any]]:
    """Crops around faces. The range, such as `"2.0,4.0"`, is from the closest to the widest crop."""
    text = subset["face_crop_aug_range"]
    try:
        closest, widest = (float(part) for part in text.split(","))
        if not 0 < closest <= widest:
            raise ValueError
    except ValueError:
        where = f"{subset.where}.face_crop_aug_range"
        problems.append(Problem(where, f'found "{text}"', 'two numbers in order, such as "2.0,4.0"'))
        return []
    return [{"kind": "face_crop", "closest": closest, "widest": widest, "wander": bool(subset["random_crop"])}]


def without_unset(table: dict[str, Any]) -> dict[str, Any]:
    """A table without the keys that are None or an empty text."""
    return {key: value for key, value in table.items() if value not in (None, "")}
