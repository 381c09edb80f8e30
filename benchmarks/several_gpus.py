"""What several GPUs of one machine give: images per second of one run on one GPU, and of one run on all of them.

    python -m benchmarks.several_gpus --base sd1 --batch 4 --out several_gpus.json

Each GPU gets `--batch` images a step, so a run on two makes steps of twice as many. The time of a step is that between
the moments at which steps appear in `events.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.train_command import IMAGES, LAUNCH, WARM_UP, command
from lorasmith.training.bench.workload import RANDOM_BASES, Workload, make_base, make_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="sd1", choices=list(RANDOM_BASES))
    parser.add_argument("--batch", type=int, default=4, help="images of a step on each GPU")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, torch.cuda.device_count()])
    parser.add_argument("--steps", type=int, default=600, help="timed steps, after those of the warm-up")
    parser.add_argument("--work", type=Path, default=Path("runs/several_gpus"))
    parser.add_argument("--out", type=Path, default=Path("several_gpus.json"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    work = options.work.resolve()
    resolution = RANDOM_BASES[options.base]
    workload = Workload(
        base=make_base(options.base, work),
        images=make_images(work, resolution, IMAGES),
        cache=str(work / "cache"),
        resolution=resolution,
        batch=options.batch,
        precision="bf16",
        device="cuda",
        adapter={"kind": "lora", "rank": 16, "layers": "attention"},
    )
    rows: list[dict[str, Any]] = []
    for count in options.gpus:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m"]
        launch = LAUNCH if count == 1 else [*torchrun, "lorasmith"]
        every = replace(workload, batch=options.batch * count)
        step_s = command(every, work, WARM_UP + options.steps, launch)["step_s"]
        rows.append({"gpus": count, "batch": every.batch, "ms": 1e3 * step_s, "images_s": every.batch / step_s})
        print(json.dumps(rows[-1]), flush=True)
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"{rows[-1]['images_s'] / rows[0]['images_s']:.2f} times the images per second of {rows[0]['gpus']} GPU")


if __name__ == "__main__":
    main()
