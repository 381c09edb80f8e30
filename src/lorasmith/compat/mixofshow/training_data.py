"""From Mix-of-Show's `datasets` to our `data`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.compat.mixofshow.reading import read_mapping
from lorasmith.core.errors import LorasmithError
from lorasmith.core.text_files import read_text

TEMPLATES: dict[str, tuple[str, ...]] = {
    "object": (
        "a photo of {caption}",
        "a picture of {caption}",
        "a close-up photo of {caption}",
        "{caption} in a photo",
    ),
    "style": ("a picture in the style of {caption}", "a painting in the style of {caption}"),
    "human": ("a photo of {caption}", "a portrait of {caption}", "a picture of {caption}", "a snapshot of {caption}"),
}
"""Our own wording of EnhanceText's templates; their purpose is to vary the caption's context."""
LETTERBOXES = {"HumanResizeCropFinalV3": True, "ResizeFillMaskNew": False}
"""Transforms that put an image on a black canvas, and whether they keep the upper part of a portrait."""
NOT_NEEDED = ("ToTensor", "Normalize", "Resize", "CenterCrop", "BILINEARResize", "PairResize")
"""Transforms that loading and buckets already do."""


def convert_data(values: dict[str, Any], size: tuple[int, int], notes: list[str]) -> dict[str, Any]:
    """The table `data`. `size`: width and height."""
    width, height = size
    listed = list_transforms(values)
    table: dict[str, Any] = {
        "subsets": read_concept_list(values),
        "resolution": width if width == height else [width, height],
        "batch_size": values["datasets.train.batch_size_per_gpu"],
        "transforms": convert_transforms(values, listed, notes),
    }

    # All images are put on a canvas of the same size, so there is nothing to sort into buckets.
    if any(transform.get("type") in LETTERBOXES for transform in listed):
        table["buckets"] = {"enabled": False}
    return table


def image_size(values: dict[str, Any]) -> tuple[int, int]:
    """Width and height: of the first transform that has a size, else of the validation's latents, else 512."""
    for transform in list_transforms(values):
        side = transform.get("size")
        if isinstance(side, int):
            return side, side
    return preview_size(values) or (512, 512)


def preview_size(values: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height of validation images, if latent_size ([channels, height, width]) is given."""
    latent_size = values["datasets.val_vis.latent_size"]
    if not latent_size:
        return None
    height, width = latent_size[1], latent_size[2]
    return width * 8, height * 8


def list_transforms(values: dict[str, Any]) -> list[dict[str, Any]]:
    """instance_transform as a list of tables; in the file, a transform without settings may be its name only."""
    listed = values["datasets.train.instance_transform"] or ()
    return [entry if isinstance(entry, dict) else {"type": entry} for entry in listed]


def read_concept_list(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The subsets of the concept list. Raises LorasmithError if it cannot be read."""
    path = Path(values["datasets.train.concept_list"])
    try:
        concepts = json.loads(read_text(path))
        return [convert_concept_images(concept, values) for concept in concepts]
    except OSError as error:
        raise LorasmithError(f"concept_list: {path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise LorasmithError(
            f"concept_list: {path} is not a list of objects with instance_prompt and instance_data_dir ({error})"
        ) from None


def convert_concept_images(concept: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """One entry of the concept list as a subset."""
    subset: dict[str, Any] = {
        "images": concept["instance_data_dir"],
        "caption": concept["instance_prompt"],
        "caption_lines": "first",
    }

    # Without captions, and for images without a caption file, the instance prompt is used.
    if not values["datasets.train.use_caption"]:
        subset["caption_extension"] = [".no-captions"]
    elif concept.get("caption_dir"):
        subset["captions"] = concept["caption_dir"]
    if values["datasets.train.use_mask"] and concept.get("mask_dir"):
        # Images without a mask are allowed; they are trained as a whole.
        subset["masks"] = concept["mask_dir"]
        subset["masks_weigh"] = values["models.use_mask_loss"]
        subset["masks_for_all"] = False
    return subset


def convert_transforms(values: dict[str, Any], listed: list[dict[str, Any]], notes: list[str]) -> list[dict[str, Any]]:
    """Changes of captions and images in the original's order; words of captions are replaced first."""
    transforms: list[dict[str, Any]] = []
    replacements = read_mapping(values["datasets.train.replace_mapping"])
    if replacements:
        transforms.append({"kind": "replace", "words": replacements})
    for entry in listed:
        kind = entry.get("type")
        if kind == "ShuffleCaption":
            transforms.append({"kind": "shuffle", "keep": entry.get("keep_token_num", 1)})
        elif kind == "EnhanceText":
            templates = TEMPLATES[entry.get("enhance_type", "object")]
            transforms.append({"kind": "template", "templates": list(templates)})
        elif kind in ("RandomHorizontalFlip", "PairRandomHorizontalFlip"):
            transforms.append({"kind": "flip"})
        elif kind in LETTERBOXES:
            transforms.append(convert_letterbox(entry))
            notes.append(
                f"{kind}: images are encoded again in each step; with `kept = 20` in its table, 20 variants of each "
                "image are cached instead"
            )
        elif kind in ("RandomCrop", "PairRandomCrop"):
            notes.append(f"{kind}: not done; buckets keep the whole image except for a margin")
        elif kind not in NOT_NEEDED:
            notes.append(f"instance_transform: {kind} is unknown and is ignored")
    return transforms


def convert_letterbox(entry: dict[str, Any]) -> dict[str, Any]:
    """Our transform for one of `LETTERBOXES`."""
    transform: dict[str, Any] = {
        "kind": "letterbox",
        "crop": float(entry.get("crop_p", 0.5)),
        "upper": LETTERBOXES[entry["type"]],
    }
    if "scale_ratio" in entry:
        transform["scale"] = [float(ratio) for ratio in entry["scale_ratio"]]
    return transform
