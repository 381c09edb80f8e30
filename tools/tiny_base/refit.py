"""What becomes of layer-wise words in programs that know one vector a word: `python -m tools.tiny_base.refit`.

Trains words with a vector for each layer and a LoRA (the variant of tools.tiny_base.ablation with attention
regularisation), and lets the judge look at pictures of the file as it is (exact), with the mean of each word (collapse)
and refitted (`lorasmith refit`); and at how far the pictures are from the exact ones. Prompts are not those that the
refit uses. Results are added to `--to`; seeds that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

import lorasmith
from lorasmith.evaluation.judge import Judge
from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.formats.token_embeddings import TENSOR_PREFIX
from lorasmith.formats.write import write
from lorasmith.sampling.loras import Loras, LoraUse
from lorasmith.sampling.sample import sample
from tools.tiny_base.ablation import WORDS, variants
from tools.tiny_base.gate_lora import OTHERS, picture_of, train

VARIANT = "LoRA + layer-wise words, attention regularised"
STRENGTHS = (0.7, 1.0)
PLACES = ("at night", "on an orange background", "on white snow", "in a desert")


def collapsed(exact: Path) -> Path:
    """The same file with the mean of each word, which is what embeddings hold."""
    with safe_open(exact, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    found = {n: t.mean(1, keepdim=True) if n.startswith(TENSOR_PREFIX) else t for n, t in tensors.items()}
    return write(exact.with_name("collapse.safetensors"), found, metadata, torch.float32)


def drawn(family: Family, prompts: Sequence[tuple[str, int]]) -> torch.Tensor:
    """(n, 3, 128, 128) in -1..1."""
    requests = [picture_of(prompt, seed) for prompt, seed in prompts]
    return torch.stack([picture.pixels for picture in sample(family, requests, batch_size=8)])


def measured(family: Family, eye: Judge, files: dict[str, Path], count: int) -> dict[str, dict[str, float]]:
    """By strength and file: shares of pictures that show garp and others, and the mean squared distance of both
    from the exact file's pictures."""
    garp = [(f"a photo of {WORDS}, {PLACES[i % len(PLACES)]}", i) for i in range(count)]
    names = [OTHERS[i % len(OTHERS)] for i in range(count)]
    others = [(f"a photo of a {name}, {PLACES[i // 3 % len(PLACES)]}", i) for i, name in enumerate(names)]
    found: dict[str, dict[str, float]] = {}
    for strength in STRENGTHS:
        exact: list[torch.Tensor] = []
        for name, file in files.items():
            with Loras(family).attached([LoraUse(file, strength)]):
                pictures = [drawn(family, garp), drawn(family, others)]
            exact = exact or pictures
            seen = [eye.concept(part) for part in pictures]
            apart = [float((a - b).square().mean()) for a, b in zip(pictures, exact, strict=True)]
            shares = {"garp": seen[0].share("garp"), "others": seen[1].share(names)}
            found[f"{name} {strength:g}"] = shares | {"garp_apart": apart[0], "others_apart": apart[1]}
            print(name, strength, found[f"{name} {strength:g}"], flush=True)
    return found


def one(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train, refit and judge with one seed."""
    folder = options.runs / f"{seed}"
    exact = folder / "garp.exact.safetensors"
    if not exact.exists():
        table = dict(variants())[VARIANT] | {"seed": seed, "name": "garp", "device": options.device}
        folder.mkdir(parents=True, exist_ok=True)
        config = folder.with_suffix(".json")
        config.write_text(json.dumps(table))
        train(config, folder)
    refitted = folder / "refit.safetensors"
    report = lorasmith.refit(
        exact, "tiny-sd", output=refitted, overwrite=True, ridge=options.ridge, device=options.device
    )
    said = report.plain()
    family, eye = load("tiny-sd", device=options.device), Judge.load()
    files = {"exact": exact, "collapse": collapsed(exact), "refit": refitted.with_name("refit.exact.safetensors")}
    result = {"seed": seed, "judged": measured(family, eye, files, options.count)}
    means = {m: sum(e.values()) / len(e) for m, e in said["errors"].items()}
    return result | {"errors": means, "prediction": said["prediction"], "moved": said["moved"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/refit"))
    parser.add_argument("--to", type=Path, default=Path("refit.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--count", type=int, default=48, help="pictures of garp, and of others")
    parser.add_argument("--ridge", type=float, default=3e-2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = json.loads(options.to.read_text()) if options.to.exists() else []
    for seed in options.seeds:
        if seed not in [row["seed"] for row in rows]:
            rows.append(one(seed, options))
            options.to.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
