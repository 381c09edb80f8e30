"""What `lorasmith train` takes beside its steps, on a full-size base with random weights.

    python benchmarks/train_command.py --base sd1 --batch 1 --out train_command.json

Four figures: the wall time of a command that makes one step, cold (images are encoded) and warm; the time from the
start of the warm one until its step is in the log; the time of a step in a run with its usual hooks, by the times at
which its steps appear in `events.jsonl`; and the time of the bare step, as `lorasmith bench` makes it, on the same
machine, before and after the run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorasmith.core.devices import pick_device
from lorasmith.training.bench.worker import Worker
from lorasmith.training.bench.workload import RANDOM_BASES, Workload, make_base, make_images

IMAGES = 32
WARM_UP = 200
"""Steps before those that are timed: compilation, the capture of a graph, the clocks of the GPU."""
POLL_S = 0.01
LAUNCH = [sys.executable, "-m", "lorasmith"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="sd1", choices=[*RANDOM_BASES, "tiny-sd"])
    parser.add_argument("--resolution", type=int, default=0, help="default: that of the base")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--steps", type=int, default=1500, help="timed steps, after those of the warm-up")
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
    warm = command(workload, options.work, 1)
    figures |= {"warm_command_s": warm["wall_s"], "warm_first_step_s": warm["first_step_s"]}
    bare = [bare_step(workload, options.steps)]
    long = command(workload, options.work, WARM_UP + options.steps)
    bare.append(bare_step(workload, options.steps))
    figures["ms_in_a_run"] = round(1e3 * long["step_s"], 3)
    figures["ms_bare"] = [round(1e3 * seconds, 3) for seconds in bare]
    figures["ratio"] = round(long["step_s"] / min(bare), 4)
    print(json.dumps(figures, indent=1))
    options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def command(workload: Workload, work: Path, steps: int, launch: Sequence[str] = LAUNCH) -> dict[str, float]:
    """Wall time of a training command, the time until a step of it is in the log, and that of one of its steps after
    the warm-up (0 if there are no such steps).

    `launch`: what starts the program."""
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
    process = subprocess.Popen([*launch, "train", str(file), "--yes"])
    appeared = steps_as_they_appear(process, output / "events.jsonl")
    wall = time.perf_counter() - started
    if process.returncode:
        sys.exit(process.returncode)
    timed = [(step, seconds) for step, seconds in appeared if step >= WARM_UP]
    step_s = 0.0
    if len(timed) > 1:
        (first, begin), (last, end) = timed[0], timed[-1]
        step_s = (end - begin) / (last - first)
    return {"wall_s": round(wall, 2), "first_step_s": round(appeared[0][1] - started, 2), "step_s": step_s}


def steps_as_they_appear(process: subprocess.Popen[bytes], events: Path) -> list[tuple[int, float]]:
    """Numbers of steps, and the seconds at which they had been written, until the process ends."""
    seen: list[tuple[int, float]] = []
    position = 0
    while process.poll() is None:
        time.sleep(POLL_S)
        if not events.exists() or events.stat().st_size == position:
            continue
        now = time.perf_counter()
        with events.open("rb") as file:
            file.seek(position)
            text = file.read()
        # a line that is being written is read the next time
        lines = text[: text.rfind(b"\n") + 1].splitlines()
        position += text.rfind(b"\n") + 1
        steps = [entry["step"] for entry in map(json.loads, lines) if entry["event"] == "step"]
        if steps:
            seen.append((max(steps), now))
    return seen


def bare_step(workload: Workload, count: int) -> float:
    """Seconds of a step without a run around it."""
    worker = Worker()
    worker.build("ours", vars(workload))
    worker.warm_up()
    return worker.steps(count)["s"]


if __name__ == "__main__":
    main()
