"""`regionally_controlable_sampling`: a picture of several concepts, each in its region, led by a pose or a sketch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lorasmith.compat.mixofshow.options import REGIONS
from lorasmith.compat.mixofshow.reading import arguments
from lorasmith.compat.options import split_arguments
from lorasmith.compat.script import Action, Parsed
from lorasmith.core.config import validate
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.families.resolve import find
from lorasmith.formats.read import load as read_lora
from lorasmith.sampling.loras import LoraUse
from lorasmith.sampling.regions import parse_area_weights, parse_regions
from lorasmith.sampling.run import sample_to_folder
from lorasmith.sampling.settings import SampleSettings

WORDS = "new_concept_cfg.json"
SUFFIX = ".safetensors"
CONDITIONS = ("keypose", "sketch")


class RegionallyControlableSampling(Action):
    """Mix-of-Show's sampling by regions, with the original's spelling; conditions may be left out."""

    name = "regionally_controlable_sampling"
    origin = "Mix-of-Show"
    options = REGIONS

    def parse(self, argv: Sequence[str]) -> Parsed:
        given, warnings = split_arguments(self.options, arguments(argv))
        return self.read(given, warnings)

    def act(self, parsed: Parsed, progress: Progress | None) -> dict[str, Any]:
        v = parsed.values
        missing = [name for name in ("pretrained_model", "prompt") if v[name] is None]
        if missing:
            raise LorasmithError(f"{self.name} needs " + ", ".join(f"--{name}" for name in missing))
        base, lora, words = model_of(Path(v["pretrained_model"]), v["base"])
        regions = parse_regions(v["prompt_rewrite"] or "")
        width, height = size_of(v, regions)
        table = {
            "negative": v["negative_prompt"] or "", "seed": v["seed"], "steps": 50, "cfg": 7.5, "sampler": "dpm++_2m",
            "width": width, "height": height, "regions": regions, "apart": v["apart"], "count": v["count"],
            "controls": [control for kind in CONDITIONS if (control := control_of(v, kind))], "embeddings": words,
        }  # fmt: skip
        settings = validate(SampleSettings, table, self.name)
        folder = Path(v["save_dir"] or "results") / v["suffix"]
        loras = [] if lora is None else [LoraUse(lora)]
        made = sample_to_folder(base, [v["prompt"]], folder, loras=loras, settings=settings, progress=progress)
        return {"pictures": [str(file) for file in made.files]}


def model_of(path: Path, base: str | None) -> tuple[str, Path | None, list[str]]:
    """The base, the fused LoRA on it, and files of new words, from what --pretrained_model names: a whole fused model
    of the original (its words are tokens of its own), or what `gradient_fusion` writes here."""
    file = path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)
    if path.is_dir():
        words = path / WORDS
        return str(path), None, [str(words)] if words.is_file() else []
    if not file.is_file():
        return str(path), None, []  # a name that the loader knows, or says that it does not
    return base or named_base(file), file, []


def named_base(file: Path) -> str:
    """The base that a LoRA's metadata names. Raises LorasmithError if it is not here under that name."""
    name = read_lora(file).metadata.get("ss_sd_model_name", "")
    try:
        find(name)
    except LorasmithError:
        raise LorasmithError(f'{file}: made on "{name or "?"}", which is not here by that name; add --base') from None
    return name


def size_of(values: Mapping[str, Any], regions: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Width and height: as asked, as the condition has them, or as far as the regions go; multiples of 8."""
    if values["width"] and values["height"]:
        return values["width"], values["height"]
    for kind in CONDITIONS:
        path = values[f"{kind}_condition"]
        if path:
            try:
                with Image.open(path) as image:
                    return image.width // 8 * 8, image.height // 8 * 8
            except OSError as error:
                raise LorasmithError(f"--{kind}_condition {path}: not a picture that can be read ({error})") from None
    ends = [region["box"] for region in regions if max(region["box"]) > 1]
    if not ends:
        raise LorasmithError("the size of the picture is not known; give a condition, regions, or --width and --height")
    return tuple(math.ceil(max(box[side] for box in ends) / 8) * 8 for side in (2, 3))  # type: ignore[return-value]


def control_of(values: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    """The control of one condition."""
    image = values[f"{kind}_condition"]
    if not image:
        return None
    areas = parse_area_weights(values[f"region_{kind}_adaptor_weight"] or "")
    weight = values[f"{kind}_adaptor_weight"]
    return {"model": values[f"{kind}_adaptor"], "image": image, "weight": weight, "areas": areas}
