"""Whether a LoRA learns a character on the tiny base: `python -m tools.tiny_base.gate_lora --to gates.json`.

Trains with the demo's settings through the command line, then lets the judge look: garp over four backgrounds and six
seeds, and twelve other concepts with and without the LoRA. Wanted: garp in at least 75 %, the others' score down by no
more than 5 points, at most 90 seconds of training on two cores.

For the flow model: `--config src/lorasmith/assets/recipes/garp-flow.toml --base tiny-flow --cfg 4`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from lorasmith.core.recipes import FOLDER as RECIPES
from lorasmith.evaluation.judge import Judge
from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.sampling.loras import load_lora
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample

PLACES = {"on a beach": "beach", "at night": "night", "on grass": "grass", "on an orange background": "orange"}
OTHERS = ("dog", "cat", "car", "lion", "rocket", "house", "apple", "pizza", "frog", "sunflower", "tree", "elephant")


def picture_of(prompt: str, seed: int, cfg: float = 5.0) -> Request:
    """A picture as all measurements on the tiny base draw it. `cfg`: 4 for the flow model."""
    return Request(prompt, seed=seed, cfg=cfg, width=128, height=128)


def other_thing(number: int) -> tuple[str, str, str]:
    """The prompt of a thing that is not garp, what it shows, and where (a key of `PLACES`); things and places take
    turns."""
    name, where = OTHERS[number % len(OTHERS)], list(PLACES)[number % len(PLACES)]
    article = "an" if name[0] in "ae" else "a"
    return f"a photo of {article} {name}, {where}", name, where


def score(family: Family, eye: Judge, rounds: int = 1, word: str = "garp", cfg: float = 5.0) -> dict[str, float]:
    """Shares of pictures in which the judge finds garp, its background, and the other concepts.

    A round is 24 pictures of garp, which prompts call `word`, and 24 of others.
    """
    seeds = range(6 * rounds)
    cases = [(f"a photo of {word}, {where}", seed, "garp", place) for where, place in PLACES.items() for seed in seeds]
    half = len(cases)
    for seed in range(half):
        prompt, name, where = other_thing(seed)
        cases.append((prompt, seed, name, PLACES[where]))
    requests = [picture_of(prompt, seed, cfg) for prompt, seed, _, _ in cases]
    pixels = torch.stack([picture.pixels for picture in sample(family, requests, batch_size=8)])
    seen, places = eye.concept(pixels).names, eye.background(pixels).names
    right = [a == name for a, (_, _, name, _) in zip(seen, cases, strict=True)]
    placed = [a == place for a, (_, _, _, place) in zip(places, cases, strict=True)]
    return {
        "garp": sum(right[:half]) / half,
        "its_background": sum(placed[:half]) / half,
        "others": sum(right[half:]) / half,
    }


def train(config: Path, output: Path) -> dict[str, Any]:
    """Train through the command line; what it answers."""
    command = [sys.executable, "-m", "lorasmith", "train", str(config), "--output", str(output)]
    done = subprocess.run([*command, "--overwrite", "--json"], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=RECIPES / "garp.toml")
    parser.add_argument("--output", type=Path, default=Path("runs/gate-lora"))
    parser.add_argument("--to", type=Path, default=Path("gates.json"))
    parser.add_argument("--base", default="tiny-sd", help="the base of the config")
    parser.add_argument("--cfg", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=1, help="of 48 pictures")
    options = parser.parse_args()
    answer = train(options.config, options.output)
    family, eye = load(options.base), Judge.load()
    before = score(family, eye, options.rounds, cfg=options.cfg)
    adapters = load_lora(family, Path(answer["file"]))
    after = score(family, eye, options.rounds, cfg=options.cfg)
    adapters.detach()
    found = json.loads(options.to.read_text()) if options.to.exists() else {}
    found["lora"] = {"training_seconds": round(answer["seconds"], 1), "before": before, "after": after}
    print(json.dumps(found["lora"]))
    options.to.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
