"""The LoRAs that the fusion tables are made of: three concepts, of two sorts and several seeds, each trained once.

garp, and two things under names that the base has never read: pictures of a lion, which the base drew itself, called
blib; of a house, called quop.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorasmith.families.base import Family
from lorasmith.imaging.png import to_image
from lorasmith.sampling.sample import sample
from tools.tiny_base.gate_lora import picture_of, train
from tools.tiny_base.recipe import unet_recipe

MEANS = {"garp": "garp", "blib": "lion", "quop": "house"}
CLASSES = {"garp": "face", "blib": "cat", "quop": "tree"}
"""The word that the second new token of a concept starts as."""

BACKGROUNDS = ("a red background", "a blue background", "a white background", "a green background", "grass", "a beach")
SORTS = ("plain", "tokens")
"""`plain`: a LoRA of the UNet, by the demo's settings. `tokens`: two new layer-wise tokens with a LoRA of the attention
layers of UNet and text encoder, as Mix-of-Show trains (ED-LoRA)."""


@dataclass(frozen=True)
class Trained:
    """A LoRA file, what prompts call its concept, and what the judge is to find in the pictures."""

    file: Path
    name: str
    means: str


def words_of(name: str, sort: str) -> str:
    """What prompts call a concept."""
    return name if sort == "plain" else f"<{name}1> <{name}2>"


def trained(family: Family, name: str, sort: str, seed: int, work: Path) -> Trained:
    """The LoRA of one concept, trained if it is not in `work` yet."""
    folder = work / f"{sort}-{seed}" / name
    file = folder / (f"{name}.safetensors" if sort == "plain" else f"{name}.exact.safetensors")
    if not file.exists():
        images = "src/lorasmith/assets/garp" if name == "garp" else str(pictures(family, name, work / "pictures"))
        folder.parent.mkdir(parents=True, exist_ok=True)
        config = folder.with_suffix(".json")
        config.write_text(json.dumps(settings(name, sort, seed, images)))
        train(config, folder)
    return Trained(file, words_of(name, sort), MEANS[name])


def settings(name: str, sort: str, seed: int, images: str) -> dict[str, Any]:
    """The config of a training: the demo's, with the changes of its sort."""
    table = unet_recipe()
    words = words_of(name, sort)
    table |= {"name": name, "trigger": [words], "seed": seed, "threads": 1, "log": {"tensorboard": False}}
    table["data"]["subsets"][0]["images"] = images
    if sort == "tokens":
        table["data"]["subsets"][0]["transforms"] = [{"kind": "replace", "words": {name: words}}]
        concept = {"words": words.split(), "init": ["<rand-0.02>", CLASSES[name]], "layerwise": True, "lr": 3e-3}
        table |= {"concepts": [concept], "adapter": {"kind": "lora", "rank": 8, "layers": "attention"}}
        table["optimizer"]["text_lr"] = 3e-4
    return table


def pictures(family: Family, name: str, folder: Path) -> Path:
    """Twelve pictures of what a name means, drawn by the base, with captions that use the name."""
    folder = folder / name
    if folder.exists():
        return folder
    places = [(where, seed) for where in BACKGROUNDS for seed in (101, 102)]
    requests = [picture_of(f"a photo of a {MEANS[name]}, on {where}", seed) for where, seed in places]
    drawn = sample(family, requests, batch_size=8)
    folder.mkdir(parents=True)
    for index, (picture, (where, _)) in enumerate(zip(drawn, places, strict=True)):
        to_image(picture.pixels).save(folder / f"{index:02}.png")
        (folder / f"{index:02}.txt").write_text(f"a photo of {name}, on {where}\n", "utf-8")
    return folder
