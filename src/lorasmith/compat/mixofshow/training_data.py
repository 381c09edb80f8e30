"""From Mix-of-Show's `datasets` to our `data`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.compat.mixofshow.reading import read_mapping
from lorasmith.compat.options import Option
from lorasmith.compat.prompt_templates import TEMPLATES
from lorasmith.compat.script import read_option
from lorasmith.core.errors import ConfigError, LorasmithError, Problem, did_you_mean
from lorasmith.core.text_files import read_text
from lorasmith.data.config import NO_CAPTION_FILES

LETTERBOXES = {"HumanResizeCropFinalV3": True, "ResizeFillMaskNew": False}
"""Transforms that put an image on a black canvas, and whether they keep the upper part of a portrait."""
NOT_NEEDED = ("ToTensor", "Normalize", "Resize", "CenterCrop", "BILINEARResize", "PairResize")
"""Transforms that loading and buckets already do."""
CROPS = ("RandomCrop", "PairRandomCrop")
SIZE = Option("size", "int")
PLACED = (SIZE, Option("crop_p", "float", 0.5), Option("kept", "int", 0))
SETTINGS: dict[str, tuple[Option, ...]] = {
    "HumanResizeCropFinalV3": PLACED,
    "ResizeFillMaskNew": (*PLACED, Option("scale_ratio", "floats", (1.0, 1.0))),
    "ShuffleCaption": (Option("keep_token_num", "int", 1),),
    "EnhanceText": (Option("enhance_type", "text", "object", choices=tuple(TEMPLATES)),),
    "RandomHorizontalFlip": (Option("p", "float", 0.5),),
    "PairRandomHorizontalFlip": (Option("p", "float", 0.5),),
}
"""The settings of the transforms that become something here."""
KEY = "datasets.train.instance_transform"


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
        if isinstance(side, int | float):
            return int(side), int(side)
    return preview_size(values) or (512, 512)


def preview_size(values: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height of validation images, if latent_size ([channels, height, width]) is given."""
    latent_size = values["datasets.val_vis.latent_size"]
    if not latent_size:
        return None
    _, height, width = latent_size
    return width * 8, height * 8


def list_transforms(values: dict[str, Any]) -> list[dict[str, Any]]:
    """instance_transform as a list of tables; in the file, a transform without settings may be its name only."""
    listed = values[KEY] or []
    return [entry if isinstance(entry, dict) else {"type": entry} for entry in listed]


def repeats_of(values: Mapping[str, Any]) -> int | None:
    """How often the data set has each image; None if that is not a whole number."""
    ratio = float(values["datasets.train.dataset_enlarge_ratio"])
    return int(ratio) if ratio.is_integer() and ratio >= 1 else None


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
    # In one epoch of all repeats only the last batch is incomplete, as in the original; in many short ones each last
    # batch would be, which makes more steps.
    repeats = repeats_of(values)
    if repeats is not None and repeats > 1:
        subset["repeats"] = repeats

    # Without captions, and for images without a caption file, the instance prompt is used.
    if not values["datasets.train.use_caption"]:
        subset["caption_extension"] = list(NO_CAPTION_FILES)
    elif concept.get("caption_dir"):
        subset["captions"] = concept["caption_dir"]
    if values["datasets.train.use_mask"] and concept.get("mask_dir"):
        # Images without a mask are allowed; they are trained as a whole.
        subset["masks"] = concept["mask_dir"]
        subset["masks_weigh"] = values["models.use_mask_loss"]
        subset["masks_for_all"] = False
    return subset


def convert_transforms(values: dict[str, Any], listed: list[dict[str, Any]], notes: list[str]) -> list[dict[str, Any]]:
    """Changes of captions and images in the original's order; words of captions are replaced first. Raises ConfigError
    with all wrong settings."""
    transforms: list[dict[str, Any]] = []
    problems: list[Problem] = []
    replacements = read_mapping(values["datasets.train.replace_mapping"])
    if replacements:
        transforms.append({"kind": "replace", "words": replacements})
    for index, entry in enumerate(listed):
        kind = str(entry.get("type"))
        if kind in SETTINGS:
            settings = read_settings(kind, entry, f"{KEY}.{index}", problems)
            transforms.append(CONVERTERS[kind](kind, settings))
        elif kind in CROPS:
            notes.append(f"{kind}: not done; buckets keep the whole image except for a margin")
        elif kind not in NOT_NEEDED:
            allowed = ", ".join((*SETTINGS, *CROPS, *NOT_NEEDED))
            remedy = did_you_mean(kind, SETTINGS)
            problems.append(Problem(f"{KEY}.{index}", f'unknown transform "{kind}"', allowed, remedy))
    if problems:
        raise ConfigError(problems, str(values["opt"] or ""))
    return transforms


def read_settings(kind: str, entry: dict[str, Any], where: str, problems: list[Problem]) -> dict[str, Any]:
    """The settings of a transform, with defaults for those that are not given. Adds what is wrong to `problems`."""
    options = {option.name: option for option in SETTINGS[kind]}
    settings = {name: option.default for name, option in options.items()}
    for name, raw in entry.items():
        if name == "type":
            continue
        if name not in options:
            allowed = ", ".join(options)
            problems.append(
                Problem(f"{where}.{name}", f"{kind} has no such setting", allowed, did_you_mean(name, options))
            )
            continue
        wrong: list[Problem] = []
        value = read_option(options[name], raw, wrong)
        problems += [Problem(f"{where}.{name}", problem.found, problem.allowed) for problem in wrong]
        if value is not None:
            settings[name] = value
    if settings.get("p", 0.5) != 0.5:
        problems.append(Problem(f"{where}.p", f"found {settings['p']}", "0.5: half of all views are mirrored"))
    return settings


def convert_letterbox(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Our transform for one of `LETTERBOXES`."""
    transform: dict[str, Any] = {
        "kind": "letterbox",
        "crop": settings["crop_p"],
        "upper": LETTERBOXES[kind],
        "kept": settings["kept"],
    }
    if "scale_ratio" in settings:
        transform["scale"] = list(settings["scale_ratio"])
    return transform


def convert_shuffle(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Tags in random order, all but the first."""
    return {"kind": "shuffle", "keep": settings["keep_token_num"]}


def convert_templates(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The caption in a sentence that says which kind of picture it is."""
    return {"kind": "template", "templates": list(TEMPLATES[settings["enhance_type"].lower()])}


def convert_flip(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Half of all views mirrored."""
    return {"kind": "flip"}


CONVERTERS = {
    "HumanResizeCropFinalV3": convert_letterbox,
    "ResizeFillMaskNew": convert_letterbox,
    "ShuffleCaption": convert_shuffle,
    "EnhanceText": convert_templates,
    "RandomHorizontalFlip": convert_flip,
    "PairRandomHorizontalFlip": convert_flip,
}
"""From the settings of a transform to ours."""
