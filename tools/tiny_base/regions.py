"""Whether two things stay in their own halves of a picture: `python -m tools.tiny_base.regions`.

Draws pictures of 256 x 128 with a prompt for each half and lets the judge name the halves: things that the base knows,
and, given a fused LoRA (`tools.tiny_base.fusion` makes one), things that it never saw. Each row is one way of drawing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lorasmith.core.devices import pick_device
from lorasmith.evaluation.judge import Judge
from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.sampling.loras import Loras, LoraUse
from lorasmith.sampling.regions import Region
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
PAIRS = (("cat", "house"), ("house", "cat"), ("dog", "car"), ("banana", "dog"))
FUSED_PAIRS = (("garp", "blib"), ("blib", "garp"), ("quop", "garp"), ("blib", "quop"), ("quop", "blib"))
FUSED = {"garp": "garp", "blib": "lion", "quop": "house"}
WAYS: dict[str, dict[str, Any]] = {
    "one prompt, no regions": {"regions": ()},
    "regions": {},
    "regions, apart 0.1": {"apart": 0.1},
    "regions, apart 0.2": {"apart": 0.2},
    "regions, apart 0.3": {"apart": 0.3},
    "regions, apart 0.5": {"apart": 0.5},
}


def requests_of(left: str, right: str, place: str, whole: str, seeds: int) -> list[Request]:
    """Pictures with a name in each half."""
    regions = [
        Region(prompt=f"a photo of {called(name)}, on {place}", box=box) for name, box in ((left, LEFT), (right, RIGHT))
    ]
    prompt = whole.format(left=called(left), right=called(right), place=place)
    return [Request(prompt, seed=seed, cfg=5.0, width=256, height=128, regions=tuple(regions)) for seed in range(seeds)]


def called(name: str) -> str:
    """A name as captions have it: those that are new without an article."""
    return name if name in FUSED else f"a {name}"


def halves(family: Family, eye: Judge, requests: Sequence[Request], means: tuple[str, str]) -> dict[str, float]:
    """The shares of pictures whose left half, right half, and both show what they should."""
    pixels = torch.stack([picture.pixels for picture in sample(family, requests, batch_size=20)])
    left = [name == means[0] for name in eye.concept(pixels[..., :128]).names]
    right = [name == means[1] for name in eye.concept(pixels[..., 128:]).names]
    count = len(requests)
    both = sum(a and b for a, b in zip(left, right, strict=True)) / count
    return {"left": sum(left) / count, "right": sum(right) / count, "both": both}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lora", type=Path, help="A fused LoRA of garp, blib and quop.")
    parser.add_argument("--place", default="grass")
    parser.add_argument("--whole", default="a photo of {left} and {right}, on {place}")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--to", type=Path, default=Path("regions.json"))
    options = parser.parse_args()
    family, eye = load("tiny-sd", device=pick_device("auto")), Judge.load()
    result: dict[str, Any] = json.loads(options.to.read_text()) if options.to.exists() else {}

    def row(key: str, pairs: Sequence[tuple[str, str]], means: dict[str, str]) -> None:
        for way, changes in WAYS.items():
            for left, right in pairs:
                name = f"{key}: {way}: {left} | {right}"
                if name in result:
                    continue
                requests = [
                    replace(r, **changes) for r in requests_of(left, right, options.place, options.whole, options.seeds)
                ]
                result[name] = halves(family, eye, requests, (means.get(left, left), means.get(right, right)))
                print(name, json.dumps(result[name]), flush=True)
                options.to.write_text(json.dumps(result, indent=1) + "\n")

    row("base", PAIRS, {})
    if options.lora is not None:
        with Loras(family).attached([LoraUse(options.lora)]):
            row("fused", FUSED_PAIRS, FUSED)


if __name__ == "__main__":
    main()
