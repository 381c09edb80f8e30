"""What the tiny base can do, measured: `python -m tools.tiny_base.gates --base FOLDER --pictures DIR --to gates.json`.

Gates: `vae` (PSNR on pictures that no training saw), `judge` (right names on fresh composites), `base` (the judge finds
what a prompt names in sampled pictures), `speed` (seconds for one picture on one thread). The gate of a LoRA is
gate_lora.py.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Generator

from lorasmith.evaluation.judge import Judge
from lorasmith.families.load import load
from lorasmith.imaging.grid import grid
from lorasmith.imaging.png import to_image
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample
from tools.tiny_base import backgrounds, captions, sprites, train_judge, train_vae
from tools.tiny_base.concepts import CONCEPTS

SEEDS = 4


def vae(base: Path, pictures: Path) -> dict[str, Any]:
    """Mean PSNR in dB of the VAE's round trip on held-out composites; at least 31."""
    model = AutoencoderKL.from_pretrained(base / "vae").eval()
    values = torch.cat([train_vae.psnr(model, part) for part in train_vae.validation(pictures, "cpu").split(8)])
    return {
        "psnr_db": round(values.mean().item(), 2),
        "worst_db": round(values.min().item(), 2),
        "pictures": len(values),
    }


def judge(base: Path, pictures: Path) -> dict[str, Any]:
    """Share of right concepts and backgrounds on fresh composites, held-out characters among them; at least 0.97."""
    drawn = train_judge.bank(pictures, "cpu")
    right = train_judge.accuracy(Judge.load(base / "judge").net, drawn, Generator().manual_seed(424_242))
    return {"concept": round(right[0], 4), "background": round(right[1], 4), "pictures": 2048}


def requests() -> tuple[list[Request], list[str], list[str]]:
    """Each concept with each seed, over all backgrounds in turn; with the names of both."""
    wanted = [name for name in backgrounds.NAMES if name != "gradient"]
    pictures, concepts, places = [], [], []
    for i, concept in enumerate(CONCEPTS):
        for seed in range(SEEDS):
            place = wanted[(i * SEEDS + seed * 7) % len(wanted)]
            where = captions.place(backgrounds.NAMES.index(place), (0, 0), _First())
            prompt = f"a photo of {captions.with_article(concept.name)}, {where}"
            pictures.append(Request(prompt, seed=seed, steps=20, cfg=5.0, width=128, height=128))
            concepts.append(concept.name)
            places.append(place)
    return pictures, concepts, places


def flow_request(request: Request) -> Request:
    """The same picture for a flow model, which other samplers draw."""
    return replace(request, sampler="euler", cfg=4.0)


class _First:
    """A stand-in for a random generator that takes the first of several phrases."""

    def choice(self, seq: Sequence[str], /) -> str:
        return seq[0]


def sampled(base: Path, pictures: Path) -> dict[str, Any]:
    """Shares of sampled pictures (20 steps, guidance 5, four seeds a concept) that show what was requested; at least
    0.8."""
    family = load(base)
    wanted, concepts, places = requests()
    drawn = sample(family, wanted, batch_size=16)
    pixels = torch.stack([picture.pixels for picture in drawn])
    eye = Judge.load(base / "judge")
    seen, where = eye.concept(pixels), eye.background(pixels)
    by_concept = {
        name: sum(s == name for s, c in zip(seen.names, concepts, strict=True) if c == name) / SEEDS
        for name in dict.fromkeys(concepts)
    }
    rows = [[to_image(p.pixels) for p in drawn[i : i + 16]] for i in range(0, 128, 16)]
    grid(rows).save("gate-base.png")
    return {
        "concept": round(seen.share(concepts), 4),
        "background": round(where.share(places), 4),
        "pictures": len(drawn),
        "never_found": [name for name, share in by_concept.items() if share == 0],
    }


def speed(base: Path, pictures: Path) -> dict[str, Any]:
    """Seconds for one 128 px picture, 20 steps with guidance, on one thread; at most 4."""
    torch.set_num_threads(1)
    family = load(base)
    request = Request("a photo of a dog", cfg=5.0, width=128, height=128)
    sample(family, [request])
    started = time.process_time()
    sample(family, [request])
    return {"cpu_seconds": round(time.process_time() - started, 2)}


GATES: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "vae": vae,
    "judge": judge,
    "base": sampled,
    "speed": speed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=Path("src/lorasmith/assets/tiny-sd"))
    parser.add_argument("--pictures", type=Path, help="folder of the pictures; fetched if left out")
    parser.add_argument("--only", nargs="+", choices=list(GATES), default=list(GATES))
    parser.add_argument("--to", type=Path, default=Path("gates.json"))
    options = parser.parse_args()
    pictures = options.pictures or sprites.fetch(Path(".work") / "pictures")
    found = json.loads(options.to.read_text()) if options.to.exists() else {}
    for name in options.only:
        found[name] = GATES[name](options.base, pictures)
        print(name, json.dumps(found[name]), flush=True)
        options.to.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
