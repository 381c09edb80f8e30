"""Whether a full-size base trains on a card of a given size: torch's allocator may take no more than that.

    python benchmarks/capped_card.py --base sdxl --gib 8 --steps 20

Prints the memory level that the run chose, what it said about memory, its peak (encoding included), and seconds a step.
CUDA itself and other programs take memory beside torch's, so `--gib` should be what a card of that size leaves free.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lorasmith.core.progress import Lines
from lorasmith.training.bench.workload import RANDOM_BASES, make_base, make_images
from lorasmith.training.config import load_config
from lorasmith.training.session import train

WARM_UP = 4
"""Steps that the time of a step does not count."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="sd1", help=f"{', '.join(RANDOM_BASES)}, or a base model")
    parser.add_argument("--gib", type=float, help="what torch may take; left out: the whole card")
    parser.add_argument("--resolution", type=int, default=0, help="default: that of the base")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--memory", default="auto", help="auto, or a memory level")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--layers", default="attention")
    parser.add_argument("--work", type=Path, default=Path("runs/capped_card"))
    options = parser.parse_args()
    faulthandler.enable()
    options.work.mkdir(parents=True, exist_ok=True)
    work = options.work.resolve()
    base = make_base(options.base, work)
    resolution = options.resolution or RANDOM_BASES.get(options.base, 512)
    images = make_images(work, resolution, 4)
    if options.gib is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(options.gib * 2**30 / total)

    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, file=sys.stderr, flush=True)

    output = work / "run"
    shutil.rmtree(output, ignore_errors=True)
    config: dict[str, Any] = {
        "base": base,
        "output": str(output),
        "steps": WARM_UP + options.steps + 1,
        "device": "cuda",
        "precision": "bf16",
        "memory": options.memory if options.memory == "auto" else int(options.memory),
        "data": {"images": images, "resolution": resolution, "batch_size": options.batch},
        "adapter": {"kind": "lora", "rank": options.rank, "layers": options.layers},
        "log": {"tensorboard": False, "every_steps": 1},
    }
    torch.cuda.reset_peak_memory_stats()
    train(load_config(config), progress=Lines(say))
    peak = torch.cuda.max_memory_reserved() / 2**30
    events = [json.loads(line) for line in (output / "events.jsonl").read_text("utf-8").splitlines()]
    # of each step: the time in steps before it
    clock = [event["seconds"] for event in events if event["event"] == "step"]
    times = [after - before for before, after in pairwise(clock)][WARM_UP:]
    print(
        json.dumps(
            {
                "base": options.base,
                "cap_gib": options.gib,
                "batch": options.batch,
                "resolution": resolution,
                "seconds_a_step": round(median(times), 4),
                "slowest_step": round(max(times), 4),
                "steps": len(times),
                "peak_reserved_gib": round(peak, 2),
                "said": sorted({line for line in lines if "memory" in line}),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
