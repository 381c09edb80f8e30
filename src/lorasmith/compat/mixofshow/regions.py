"""`regionally_controlable_sampling`: images of several concepts in regions, controlled by a pose or a sketch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorasmith.compat.mixofshow.fusion import read_base
from lorasmith.compat.mixofshow.options import REGIONS
from lorasmith.compat.mixofshow.reading import normalize_arguments
from lorasmith.compat.options import split_arguments
from lorasmith.compat.script import Action, Parsed
from lorasmith.core.config import validate
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress

TOKEN_FILE = "new_concept_cfg.json"
"""The file in a fused model of the original that lists its new tokens."""
SUFFIX = ".safetensors"
CONDITIONS = ("keypose", "sketch")


class RegionallyControlableSampling(Action):
    """Mix-of-Show's sampling by regions, with the original's spelling. Conditions are optional."""

    name = "regionally_controlable_sampling"
    origin = "Mix-of-Show"
    options = REGIONS

    def parse(self, argv: Sequence[str]) -> Parsed:
        given = split_arguments(self.options, normalize_arguments(argv))
        return self.read(given, [], command_line=given)

    def act(self, parsed: Parsed, progress: Progress | None) -> dict[str, Any]:
        from lorasmith.sampling.loras import LoraUse
        from lorasmith.sampling.regions import parse_regions
        from lorasmith.sampling.run import sample_to_folder
        from lorasmith.sampling.settings import SampleSettings

        values = parsed.values
        missing = [name for name in ("pretrained_model", "prompt") if values[name] is None]
        if missing:
            raise LorasmithError(f"{self.name} requires " + ", ".join(f"--{name}" for name in missing))
        base, lora, token_files = find_model(Path(values["pretrained_model"]), values["base"])
        regions = parse_regions(values["prompt_rewrite"] or "")
        width, height = image_size(values, regions)
        regions = [clip_to_picture(region, width, height) for region in regions]

        # Steps, guidance scale and sampler are the original's.
        table = {
            "negative": values["negative_prompt"] or "",
            "seed": values["seed"],
            "steps": 50,
            "cfg": 7.5,
            "sampler": "dpm++_2m",
            "width": width,
            "height": height,
            "regions": regions,
            "apart": values["apart"],
            "count": values["count"],
            "controls": convert_controls(values, width, height),
            "embeddings": token_files,
        }
        settings = validate(SampleSettings, table, self.name)
        folder = Path(values["save_dir"] or "results") / values["suffix"]
        loras = [] if lora is None else [LoraUse(lora)]
        prompts = [values["prompt"]]
        result = sample_to_folder(base, prompts, folder, loras=loras, settings=settings, progress=progress)
        return {"pictures": [str(file) for file in result.files]}


def find_model(path: Path, base: str | None) -> tuple[str, Path | None, list[str]]:
    """The base, the fused LoRA on it, and the files of new tokens that --pretrained_model names."""
    # A whole fused model of the original, whose new tokens are in a separate file.
    if path.is_dir():
        token_file = path / TOKEN_FILE
        return str(path), None, [str(token_file)] if token_file.is_file() else []

    # A LoRA that `gradient_fusion` wrote here, with or without its suffix.
    file = path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)
    if file.is_file():
        return base or read_base(file) or named_base(file), file, []

    # A name of a base model. The loader raises an error if it is unknown.
    return str(path), None, []


def named_base(file: Path) -> str:
    """The base that a LoRA's metadata names. Raises LorasmithError if it is not found under that name."""
    from lorasmith.families.resolve import find
    from lorasmith.formats.read import load as read_lora

    name = read_lora(file).metadata.get("ss_sd_model_name", "")
    try:
        find(name)
    except LorasmithError:
        reason = f'trained on "{name}", which is not found under that name' if name else "it does not name its base"
        raise LorasmithError(f"{file}: {reason}; give it with --base") from None
    return name


def image_size(values: Mapping[str, Any], regions: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Width and height, as multiples of 8: as given, else of the condition, else the extent of the regions."""
    from PIL import Image

    if values["width"] and values["height"]:
        return values["width"], values["height"]
    for kind in CONDITIONS:
        path = values[f"{kind}_condition"]
        if not path:
            continue
        try:
            with Image.open(path) as image:
                return image.width // 8 * 8, image.height // 8 * 8
        except OSError as error:
            raise LorasmithError(f"--{kind}_condition {path}: the image cannot be read ({error})") from None

    # Boxes are (left, top, right, bottom), in pixels, or as fractions of the image, which say nothing about its size.
    boxes = [region["box"] for region in regions if max(region["box"]) > 1]
    if not boxes:
        raise LorasmithError("the image size is unknown; give a condition, regions in pixels, or --width and --height")
    right = max(box[2] for box in boxes)
    bottom = max(box[3] for box in boxes)
    return math.ceil(right / 8) * 8, math.ceil(bottom / 8) * 8


def clip_to_picture(area: dict[str, Any], width: int, height: int) -> dict[str, Any]:
    """An area without the part beyond the right and lower edge of the picture, as the original takes it. One that is
    outside as a whole stays as it is, which is an error."""
    left, top, right, bottom = area["box"]
    # Fractions are always inside.
    if max(area["box"]) <= 1 or left >= width or top >= height:
        return area
    return area | {"box": (left, top, min(right, float(width)), min(bottom, float(height)))}


def convert_controls(values: Mapping[str, Any], width: int, height: int) -> list[dict[str, Any]]:
    """The controls of the given conditions, for a picture of this size."""
    from lorasmith.sampling.regions import parse_area_weights

    controls: list[dict[str, Any]] = []
    for kind in CONDITIONS:
        image = values[f"{kind}_condition"]
        if not image:
            continue
        areas = parse_area_weights(values[f"region_{kind}_adaptor_weight"] or "")
        controls.append(
            {
                "model": values[f"{kind}_adaptor"],
                "image": image,
                "weight": values[f"{kind}_adaptor_weight"],
                "areas": [clip_to_picture(area, width, height) for area in areas],
            }
        )
    return controls
