"""How far two runs of one recipe are apart on one device, with and without `deterministic`, and what it costs.

    python benchmarks/determinism.py --out determinism.json                  # SD 1.5 at full size, random weights
    python benchmarks/determinism.py --base tiny-sd --resolution 64 --steps 20 --device cpu

Each run is a process of its own with a cache of its own: 200 steps at 512 px in bf16, rank 16, CUDA graphs on. Prints
for each setting whether the two LoRAs are equal, else the cosine between their changes of the weights, and the cost of
`deterministic` in percent of the time in steps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from lorasmith.files.compare import compare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/determinism"))
    parser.add_argument("--out", type=Path, default=Path("determinism.json"))
    parser.add_argument("--base", default="", help="default: a full-size base with random weights")
    parser.add_argument("--images", type=Path, help="default: 32 images of noise")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--no-graph", action="store_true", help="without CUDA graphs")
    options = parser.parse_args()

    from gpu_step import material  # the script beside this one

    base, images = material(options.work) if not (options.base and options.images) else ("", "")
    options.base = options.base or str(base)
    options.images = options.images or images

    options.work.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"torch": torch.__version__, "device": device_name(), "steps": options.steps}
    seconds: dict[bool, float] = {}
    for deterministic in (True, False):
        runs = [train(options, deterministic, number) for number in (1, 2)]
        comparison = compare(Path(runs[0]["file"]), Path(runs[1]["file"]))
        # the first run of a process pair warms up the disk; the faster one is the figure
        seconds[deterministic] = min(run["seconds"] for run in runs)
        name = "deterministic" if deterministic else "default"
        figures[name] = {"seconds": [run["seconds"] for run in runs], **comparison.plain()}
        print(f"{name}: {describe(figures[name])}", flush=True)
        options.out.write_text(json.dumps(figures, indent=1))
    figures["cost in percent"] = round(100 * (seconds[True] / seconds[False] - 1), 1)
    print(f"cost of deterministic: {figures['cost in percent']:+.1f} % of the time in steps")
    options.out.write_text(json.dumps(figures, indent=1))


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def describe(result: dict[str, Any]) -> str:
    times = " and ".join(f"{seconds:.1f} s" for seconds in result["seconds"])
    if result["identical"]:
        return f"equal, bit for bit ({times})"
    return (
        f"NOT equal: 1 - cos of dW {1 - result['cosine']:.3g}, |difference| / |dW| {result['relative']:.3g}, "
        f"largest difference of a number {result['max_difference']:.3g} ({times})"
    )


def train(options: argparse.Namespace, deterministic: bool, number: int) -> dict[str, Any]:
    """One run in a process of its own; what `train --json` prints."""
    name = f"{'deterministic' if deterministic else 'default'}-{number}"
    config = options.work / f"{name}.json"
    table = {
        "base": str(options.base),
        "output": str(options.work / name),
        "name": "lora",
        "steps": options.steps,
        "deterministic": deterministic,
        "device": options.device,
        "cuda_graph": not options.no_graph,
        "trigger": ["thing"],
        "data": {
            "images": str(options.images),
            "resolution": options.resolution,
            "batch_size": options.batch,
            # a cache of its own, so that encoding is compared too
            "cache_dir": str(options.work / f"{name}-cache"),
        },
        "adapter": {"rank": 16},
        "checkpoint": {"every_minutes": 600},
        "log": {"tensorboard": False},
    }
    config.write_text(json.dumps(table))
    command = [sys.executable, "-m", "lorasmith", "train", str(config), "--json", "--yes", "--overwrite"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    if done.returncode:
        sys.exit(f"{name}: the run ended with exit code {done.returncode}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
