"""Whether three concepts survive being fused: `python -m tools.tiny_base.fusion`.

Trains a LoRA each of garp and of two things under names that the base has never read (pictures of a lion, which it drew
itself, called blib; of a house, called quop), fuses them by each method, and lets the judge count, for each name, the
pictures that show what it means. Results are added to `--to` step by step, and not made again.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import lorasmith
from lorasmith.evaluation.judge import Judge
from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.imaging.png import to_image
from lorasmith.sampling.loras import Loras, LoraUse
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample
from tools.tiny_base.gate_lora import PLACES, train

MEANS = {"garp": "garp", "blib": "lion", "quop": "house"}
BACKGROUNDS = ("a red background", "a blue background", "a white background", "a green background", "grass", "a beach")
SEEDS = 8
PROMPTS = ("a photo of {}, on grass", "a photo of {}", "{}")
"""That gather inputs: one of the four places at which the judge looks, and none of the others."""


def pictures(family: Family, name: str, folder: Path) -> Path:
    """Twelve pictures of what a name means, drawn by the base, with captions that use the name."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = [(where, seed) for where in BACKGROUNDS for seed in (101, 102)]
    requests = [_request(f"a photo of a {MEANS[name]}, on {where}", seed) for where, seed in asked]
    for index, (picture, (where, _)) in enumerate(zip(sample(family, requests, batch_size=8), asked, strict=True)):
        to_image(picture.pixels).save(folder / f"{index:02}.png")
        (folder / f"{index:02}.txt").write_text(f"a photo of {name}, on {where}\n", "utf-8")
    return folder


def trained(family: Family, name: str, work: Path) -> Path:
    """A LoRA of one concept, by the demo's settings, the text encoder with it."""
    file = work / name / f"{name}.safetensors"
    if not file.exists():
        table: dict[str, Any] = tomllib.loads(Path("recipes/garp.toml").read_text())
        table.pop("preview")
        table |= {"name": name, "trigger": [name], "log": {"tensorboard": False}}
        if name != "garp":
            table["data"]["subsets"][0]["images"] = str(pictures(family, name, work / f"{name}-pictures"))
        config = work / f"{name}.json"
        config.write_text(json.dumps(table))
        train(config, work / name)
    return file


def found(family: Family, eye: Judge, names: Sequence[str]) -> dict[str, float]:
    """For each name the share of pictures that show what it means."""
    shares = {}
    for name in names:
        prompts = [(f"a photo of {name}, {where}", seed) for where in PLACES for seed in range(SEEDS)]
        drawn = sample(family, [_request(*prompt) for prompt in prompts], batch_size=8)
        seen = eye.concept(torch.stack([picture.pixels for picture in drawn])).names
        shares[name] = sum(one == MEANS[name] for one in seen) / len(seen)
    return shares


def _request(prompt: str, seed: int) -> Request:
    return Request(prompt, seed=seed, cfg=5.0, width=128, height=128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/fusion"))
    parser.add_argument("--to", type=Path, default=Path("fusion.json"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    family, eye = load("tiny-sd"), Judge.load()
    result: dict[str, Any] = json.loads(options.to.read_text()) if options.to.exists() else {}

    def keep(key: str, value: Any) -> None:
        result[key] = value
        print(key, json.dumps(value), flush=True)
        options.to.write_text(json.dumps(result, indent=1) + "\n")

    files = {name: trained(family, name, options.work) for name in MEANS}
    if "base" not in result:
        keep("base", found(family, eye, list(MEANS)))
    for name, file in files.items():
        if f"alone {name}" not in result:
            with Loras(family).attached([LoraUse(file)]):
                keep(f"alone {name}", found(family, eye, [name])[name])
    for method in ("gradient", "weights", "sum"):
        output = options.work / f"{method}.safetensors"
        if method not in result:
            given = [f"{file}={name}" for name, file in files.items()]
            report = lorasmith.fuse(given, "tiny-sd", output, method=method, prompts=PROMPTS, overwrite=True)
            with Loras(family).attached([LoraUse(output)]):
                facts = {"seconds": report.seconds, "peak_gib": report.peak_gib, "missed": report.missed[method]}
                keep(method, {"found": found(family, eye, list(MEANS))} | facts)


if __name__ == "__main__":
    main()
