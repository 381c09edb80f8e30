"""Whether an over-trained LoRA can be cleaned without data: `python -m tools.tiny_base.clean --to clean.json`.

Over-trained: three images of garp alone, 300 steps, and 200 at twice the usual rate, three seeds each. Each file is
drawn as it is, after each method, and at a lower strength, which is what a user has without any method.

* Intruder dimensions (arXiv 2410.21228): singular vectors of the changed weight that resemble none of the weight's own.
  Their part of the weight is scaled down, which is how the paper tests that they cause forgetting.
* Outlier channels: outputs of a layer whose change is far larger than that of the others are cut to the usual size.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.peers.judging import nearest_of
from benchmarks.quality_peers import read_pictures
from lorasmith.core.devices import pick_device
from lorasmith.core.intervals import student_interval
from lorasmith.families.load import load
from lorasmith.files.lora import lora_factors, read
from lorasmith.files.model import BaseWeights, ModelLayers
from tools.tiny_base.gate_lora import train
from tools.tiny_base.seed_runs import RESULT, read_rows, run_jobs
from tools.tiny_base.stopping import Eye, config_of, pictures_of

FILES = {"300 steps": (300, 1.2e-3), "200 steps at twice the rate": (200, 2.4e-3)}
"""Steps and learning rate."""
SIMILAR = 0.7
"""A singular vector is an intruder if its largest cosine with the weight's own is below this (the paper tries many)."""
LEADING = 16
"""The leading singular vectors that are looked at: as many as the LoRA has ranks."""
KEPT = 0.3
"""What is left of the singular value of an intruder."""
DEVIATIONS = 2.0
"""A channel is an outlier from so many standard deviations above the layer's mean on."""
NUMBERS = ("found", "likeness", "copying", "others", "drift")
Change = Callable[[Tensor, Tensor], Tensor]
"""The cleaned change of a weight (out, in), from the weight and the change."""


def without_intruders(weight: Tensor, change: Tensor) -> Tensor:
    """The change less the share of its intruder dimensions that is taken away."""
    own = torch.linalg.svd(weight, full_matrices=False)[0]
    up, values, down = torch.linalg.svd(weight + change, full_matrices=False)
    closest = (up[:, :LEADING].T @ own).abs().amax(1)
    intruders = (closest < SIMILAR).nonzero().flatten()
    taken = (up[:, intruders] * values[intruders]) @ down[intruders]
    return change - (1 - KEPT) * taken


def without_outliers(weight: Tensor, change: Tensor) -> Tensor:
    """The change with the rows of outlier channels scaled to the limit."""
    size = change.norm(dim=1)
    limit = size.mean() + DEVIATIONS * size.std()
    return change * (limit / size.clamp_min(1e-12)).clamp_max(1.0)[:, None]


METHODS: dict[str, Change] = {"intruders reduced": without_intruders, "outlier channels cut": without_outliers}
STRENGTHS = {"as it is": 1.0, "strength 0.8": 0.8}


def cleaned(file: Path, method: Change, target: Path) -> float:
    """Write the file with each linear's change replaced; the share of the change that was taken, by its norm."""
    model = ModelLayers.from_base("tiny-sd")
    lora = read(file, model)
    with safe_open(file, "pt") as stored:
        tensors, metadata = {name: stored.get_tensor(name) for name in stored.keys()}, stored.metadata()  # noqa: SIM118
    taken, whole = 0.0, 0.0
    with BaseWeights(model) as weights:
        for layer, own in lora.layers.items():
            up, down = lora_factors(own)
            change = up @ down
            new = method(weights.read(layer).flatten(1), change)
            taken, whole = taken + (change - new).square().sum().item(), whole + change.square().sum().item()
            left, values, right = torch.linalg.svd(new, full_matrices=False)
            rank = int((values > 1e-6 * values[0]).sum())
            name = model.kohya_name(layer)
            kernel = [1] * (tensors[f"{name}.lora_down.weight"].dim() - 2)
            tensors[f"{name}.lora_up.weight"] = (left[:, :rank] * values[:rank]).reshape(-1, rank, *kernel).contiguous()
            tensors[f"{name}.lora_down.weight"] = right[:rank].reshape(rank, -1, *kernel).contiguous()
            tensors[f"{name}.alpha"] = torch.tensor(float(rank))
    save_file(tensors, target, metadata)
    return (taken / whole) ** 0.5


def one(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train one file, and judge it in all forms."""
    torch.set_num_threads(1)
    folder = options.runs / f"{name}-{seed}".replace(" ", "-")
    pictures_of("three images", seed, folder)
    file = options.runs / f"{folder.name}.safetensors"
    if not file.exists():
        table = config_of("three images", seed, folder, options)
        table["steps"], table["optimizer"]["lr"] = FILES[name]
        for unused in ("hooks", "validation", "export"):
            del table[unused]
        del table["data"]["validation"]
        config = folder / "config.json"
        config.write_text(json.dumps(table))
        shutil.copy(train(config, folder / "run")["file"], file)
    eye, images = Eye(load("tiny-sd", device=pick_device(options.device))), read_pictures(folder / "train")
    found: dict[str, Any] = {"name": name, "seed": seed, "forms": {}, "taken": {}}

    def look(form: str, path: Path, strength: float = 1.0) -> None:
        numbers = eye.look(path, strength)
        numbers["copying"] = nearest_of(eye.last[: len(numbers["found"])], images)
        found["forms"][form] = {key: sum(values) / len(values) for key, values in numbers.items()}

    for form, strength in STRENGTHS.items():
        look(form, file, strength)
    for form, method in METHODS.items():
        found["taken"][form] = round(cleaned(file, method, folder / "cleaned.safetensors"), 3)
        look(form, folder / "cleaned.safetensors")
    shutil.rmtree(folder)
    return found


def table_of(rows: list[dict[str, Any]]) -> str:
    """A line for each kind of file and form: means in percent and, below `as it is`, differences from it, with
    Student's 90 % interval over the runs."""
    lines = [f"| file | form | {' | '.join(NUMBERS)} |", f"|---|---|{'---|' * len(NUMBERS)}"]
    for name in FILES:
        own = [row["forms"] for row in rows if row["name"] == name]
        for form in own[0] if own else ():
            cells: list[str] = []
            for number in NUMBERS:
                values = [100 * forms[form][number] for forms in own]
                before = [100 * forms["as it is"][number] for forms in own]
                cell = f"{sum(values) / len(values):.1f}"
                if form != "as it is":
                    change = student_interval([a - b for a, b in zip(values, before, strict=True)])
                    cell += f"; {change.mean:+.1f} ({change.low:+.1f} to {change.high:+.1f})"
                cells.append(cell)
            lines.append(f"| {name}, {len(own)} seeds | {form} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/clean"))
    parser.add_argument("--to", type=Path, default=Path("clean.json"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs=2, metavar=("NAME", "SEED"), help="this run alone; prints its result")
    options = parser.parse_args()
    options.draws, options.steps = 1, 0
    if options.only:
        print(RESULT + json.dumps(one(options.only[0], int(options.only[1]), options)), flush=True)
        return
    rows = read_rows(options.to)
    done = {(row["name"], row["seed"]) for row in rows}
    wanted = [(name, seed) for seed in range(options.seeds) for name in FILES if (name, seed) not in done]
    given = ["--runs", options.runs, "--device", options.device]
    run_jobs("tools.tiny_base.clean", wanted, given, rows, options.to, options.jobs)
    print(table_of(rows))


if __name__ == "__main__":
    main()
