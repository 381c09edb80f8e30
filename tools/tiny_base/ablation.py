"""What words of their own and attention regularisation add to a LoRA: `python -m tools.tiny_base.ablation`.

The ablation that Mix-of-Show's paper (arXiv 2305.18292) leaves out, on garp and the tiny base: a LoRA, with words
shared by all cross-attention layers, with words of one vector a layer, each with and without attention regularisation;
at equal steps, for several seeds, judged at two strengths. Each run is a process of its own; results are added to
`--to` as they come, and those that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lorasmith.evaluation.judge import Judge
from lorasmith.families.load import load
from lorasmith.sampling.loras import Loras, LoraUse
from tools.tiny_base.gate_lora import score, train
from tools.tiny_base.recipe import unet_recipe
from tools.tiny_base.seed_runs import RESULT, Job, read_rows, run_jobs

WORDS = "<garp1> <garp2>"
STRENGTHS = (0.7, 1.0)
CONCEPT = {"words": WORDS.split(), "init": ["<rand-0.02>", "face"], "lr": 3e-3}
KINDS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "LoRA + shared words": {"concepts": [CONCEPT]},
    "LoRA + layer-wise words": {"concepts": [CONCEPT | {"layerwise": True}]},
}
REGULARISED = {"kind": "attention_regularisation", "weight": 0.01}


def variants() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and config of each variant. A LoRA alone has no word whose attention could be regularised, so the word it is
    called by is made a new one that starts as it was and stays."""
    base = unet_recipe()
    base |= {"threads": 1, "log": {"tensorboard": False}}
    base["data"]["subsets"][0]["masks"] = "src/lorasmith/assets/garp/masks"
    for kind, changes in KINDS.items():
        for regularised in (False, True):
            table = json.loads(json.dumps(base | changes))
            if regularised and not changes:
                table["concepts"] = [{"words": ["garp"], "init": "garp", "vectors": 2, "lr": 0.0}]
            elif changes:
                swap = {"kind": "replace", "words": {"garp": WORDS}}
                table["data"]["subsets"][0]["transforms"] = [swap]
                table["trigger"] = [WORDS]
            if regularised:
                table["objective"]["parts"] = [REGULARISED]
            yield kind + (", attention regularised" if regularised else ""), table


def one(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and judge one variant with one seed."""
    torch.set_num_threads(1)
    table = dict(variants())[name] | {"seed": seed, "device": options.device, "steps": options.steps}
    folder = options.runs / f"{name} {seed}".replace(" ", "-").replace(",", "").replace("+", "with")
    folder.parent.mkdir(parents=True, exist_ok=True)
    config = folder.with_suffix(".json")
    config.write_text(json.dumps(table))
    answer = train(config, folder)
    device = "cuda" if torch.cuda.is_available() and options.device != "cpu" else "cpu"
    family, eye = load("tiny-sd", device=device), Judge.load()
    word = WORDS if WORDS in table["trigger"] else "garp"
    found: dict[str, Any] = {"variant": name, "seed": seed, "seconds": round(answer["seconds"], 1)}
    for strength in STRENGTHS:
        loras = Loras(family)
        with loras.attached([LoraUse(Path(answer["file"]), strength)]):
            found[f"{strength:g}"] = score(family, eye, options.rounds, word)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and range over the seeds, in percent, as rows of Markdown."""
    lines = ["| | garp at 0.7 | others at 0.7 | garp at 1 | others at 1 |", "|---|---|---|---|---|"]
    for name, _ in variants():
        own = [row for row in rows if row["variant"] == name]
        cells = [spread([row[s][what] for row in own]) for s in ("0.7", "1") for what in ("garp", "others")]
        if own:
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """`87 (81 - 94)`, or a dash for no values."""
    if not values:
        return "-"
    percent = [100 * value for value in values]
    return f"{statistics.mean(percent):.0f} ({min(percent):.0f} - {max(percent):.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--to", type=Path, default=Path("ablation.json"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs=2, metavar=("VARIANT", "SEED"), help="this run alone; prints its result")
    options = parser.parse_args()
    if options.only:
        print(RESULT + json.dumps(one(options.only[0], int(options.only[1]), options)), flush=True)
        return
    rows = read_rows(options.to)
    done = {(row["variant"], row["seed"]) for row in rows}
    wanted = [(name, s) for s in range(options.seeds) for name, _ in variants() if (name, s) not in done]

    def environment_of(job: Job) -> dict[str, str]:
        return os.environ | {"CUDA_VISIBLE_DEVICES": str(wanted.index(job) % max(torch.cuda.device_count(), 1))}

    given = ["--device", options.device, "--runs", options.runs, "--steps", options.steps, "--rounds", options.rounds]
    run_jobs("tools.tiny_base.ablation", wanted, given, rows, options.to, options.jobs, environment_of)
    print(table(rows))


if __name__ == "__main__":
    main()
