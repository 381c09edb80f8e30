"""What `lorasmith train` takes beside its steps, on a full-size base with random weights.

    python benchmarks/train_command.py --base sd1 --batch 1 --out train_command.json

Three figures: the wall time of a command that makes one step, cold (images are encoded) and warm; the time of a step in
a run with its usual hooks, by the difference between the wall times of a long run and a short one; and the time of the
bare step, as `lorasmith bench` makes it, on the same machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lorasmith.core.devices import pick_device
from lorasmith.training.bench.worker import Worker
from lorasmith.training.bench.workload import RANDOM_BASES, Workload, make_base, make_images

IMAGES = 32
SHORT = 60
"""Steps of the short run, which has the warm-up and the capture of a graph."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="sd1", choices=[*RANDOM_BASES, "tiny-sd"])
    parser.add_argument("--resolution", type=int, default=0, help="default: that of the base")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--steps", type=int, default=1500, help="that the long run makes after the short one's")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work", type=Path, default=Path("runs/train_command"))
    parser.add_argument("--out", type=Path, default=Path("train_command.json"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    options.work = options.work.resolve()
    resolution = options.resolution or RANDOM_BASES.get(options.base, 64)
    workload = Workload(
        base=make_base(options.base, options.work),
        images=make_images(options.work, resolution, IMAGES),
        cache=str(options.work / "cache"),
        resolution=resolution,
        batch=options.batch,
        precision=options.precision,
        device=str(pick_device(options.device)),
        adapter={"kind": "lora", "rank": 16, "layers": "attention"},
    )
    shutil.rmtree(workload.cache, ignore_errors=True)
    figures: dict[str, Any] = {"base": options.base, "resolution": resolution, "batch": options.batch}
    figures["cold_command_s"] = command(workload, options.work, 1)["wall_s"]
    figures["warm_command_s"] = command(workload, options.work, 1)["wall_s"]
    short = command(workload, options.work, SHORT)
    long = command(workload, options.work, SHORT + options.steps)
    figures["long_command_s"] = long["wall_s"]
    figures["ms_in_a_run"] = round(1e3 * (long["wall_s"] - short["wall_s"]) / options.steps, 3)
    figures["ms_reported"] = round(1e3 * (long["loop_s"] - short["loop_s"]) / options.steps, 3)
    figures["ms_bare"] = round(1e3 * bare_step(workload, options.steps), 3)
    figures["ratio"] = round(figures["ms_in_a_run"] / figures["ms_bare"], 4)
    print(json.dumps(figures, indent=1))
    options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def command(workload: Workload, work: Path, steps: int) -> dict[str, float]:
    """Wall time of a training command, and the seconds that its loop counted."""
    output = work / "run"
    shutil.rmtree(output, ignore_errors=True)
    config = {
        "base": workload.base,
        "output": str(output),
        "steps": steps,
        "device": workload.device,
        "precision": workload.precision,
        "data": {
            "images": workload.images,
            "resolution": workload.resolution,
            "batch_size": workload.batch,
            "cache_dir": workload.cache,
        },
        "adapter": workload.adapter,
    }
    file = work / "config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "lorasmith", "train", str(file), "--yes"], check=True)
    wall = time.perf_counter() - started
    events = [json.loads(line) for line in (output / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    loop = next(event["seconds"] for event in events if event["event"] == "end")
    return {"wall_s": round(wall, 2), "loop_s": float(loop)}


def bare_step(workload: Workload, count: int) -> float:
    """Seconds of a step without a run around it."""
    worker = Worker()
    worker.build("ours", vars(workload))
    worker.warm_up()
    return worker.steps(count)["s"]


if __name__ == "__main__":
    main()
