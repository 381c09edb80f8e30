"""Whether long runs and large data sets stay small: memory, handles and time as they grow.

    python benchmarks/long_run.py steps [--steps 20000]      slopes over the steps of one run
    python benchmarks/long_run.py images [--images 10000]    peak memory and start-up with many images

Both use the built-in tiny base, so that what is measured is the program around the networks. `steps` trains with all
hooks that write files (log, TensorBoard, validation, previews, exports, checkpoints) and reads memory, handles, threads
and CPU time every few hundred steps. The first quarter warms up; over the rest a straight line is fitted, and its slope
is printed for 1,000 steps. `images` makes small pictures of many sizes and trains one step on them twice: with an empty
cache and with a full one. Prints JSON; ends with 1 if something grows.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

INTERVALS = 80
"""How often a long run is measured."""
GROWTH = {"rss_mb": 1.0, "handles": 0.02, "threads": 0.02, "objects": 50.0}
"""The steepest slope for 1,000 steps that counts as none: noise of the allocator and of what is open at the moment."""
SLOWER = 0.01
"""The share by which a step may become slower in 1,000 steps: noise of the machine."""
PEAK_MB = 1024
WARM_SECONDS = 10
"""What 10,000 images may cost: memory above that of 8 images, and seconds from the command to the first step."""
WARM_UP = 0.25

# ---- many steps ------------------------------------------------------------------------------------------------------


def measure() -> dict[str, float]:
    """What this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss_mb": pages * resource.getpagesize() / 2**20,
        "handles": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "objects": len(gc.get_objects()),
        "cpu_seconds": time.process_time(),
    }


def slopes(samples: list[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """The growth of each measure in 1,000 steps, and of the CPU time of a step as a share of itself."""
    samples = samples[int(len(samples) * WARM_UP) :]
    steps = [step / 1000 for step, _ in samples]
    growth = {
        name: statistics.linear_regression(steps, [values[name] for _, values in samples]).slope for name in GROWTH
    }
    # from the differences, since CPU time adds up
    times: list[float] = []
    for (step, values), (next_step, next_values) in itertools.pairwise(samples):
        times.append((next_values["cpu_seconds"] - values["cpu_seconds"]) / (next_step - step))
    growth["step_time"] = statistics.linear_regression(steps[1:], times).slope / statistics.median(times)
    growth["step_ms"] = 1000 * statistics.median(times)
    return growth


def many_steps(folder: Path, steps: int) -> dict[str, Any]:
    """Train one long run in this process; returns its slopes."""
    from lorasmith.core.progress import Progress
    from lorasmith.training.config import load_config
    from lorasmith.training.session import train

    samples: list[tuple[int, dict[str, float]]] = []

    class Sampling(Progress):
        @contextmanager
        def track(self, description: str, total: int) -> Generator[Callable[[int, str], None], None, None]:
            made = 0

            def advance(units: int, note: str) -> None:
                nonlocal made
                made += units
                if description == "training" and made and made % max(1, steps // INTERVALS) == 0:
                    gc.collect()
                    samples.append((made, measure()))

            yield advance

    make_images(folder / "images", 8)
    every = max(1, steps // 10)
    config = settings(folder, steps) | {
        "ema": 0.99,
        "checkpoint": {"every_steps": every // 4 or 1},
        "export": {"every_steps": every},
        "preview": {"prompts": ["a square"], "every_steps": every, "width": 64, "height": 64, "steps": 2},
        "validation": {"every_steps": every, "timesteps": [500]},
    }
    config["data"]["validation"] = {"split": 0.25}
    train(load_config(config), Sampling())
    growth = slopes(samples)
    grows = [name for name, most in GROWTH.items() if growth[name] > most]
    if growth["step_time"] > SLOWER:
        grows.append("step_time")
    return {
        "steps": steps,
        "slopes": {name: round(value, 4) for name, value in growth.items()},
        "first": samples[0][1],
        "last": samples[-1][1],
        "grows": grows,
    }


# ---- many images -----------------------------------------------------------------------------------------------------


def make_images(folder: Path, count: int) -> None:
    """Small pictures of many sizes, each with a caption of its own."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    random = Random(0)
    for number in range(count):
        size = (random.randrange(64, 161, 4), random.randrange(64, 161, 4))
        noise = Image.effect_noise((16, 16), 90).resize(size)
        Image.merge("RGB", [noise, noise.rotate(90).resize(size), noise]).save(folder / f"{number:05}.jpg")
        (folder / f"{number:05}.txt").write_text(f"a square, number {number}", encoding="utf-8")


def settings(folder: Path, steps: int, resolution: int = 64) -> dict[str, Any]:
    """The config of a small run."""
    return {
        "base": "tiny-sd",
        "output": str(folder / "run"),
        "steps": steps,
        "threads": 1,
        "data": {"images": str(folder / "images"), "resolution": resolution, "cache_dir": str(folder / "cache")},
        # the last layers only: what is measured is not the backward pass
        "adapter": {"kind": "lora", "rank": 2, "layers": ["unet.up_blocks.3*"]},
    }


def one_step(folder: Path, resolution: int) -> dict[str, float]:
    """Train one step on all images in a process of its own; returns its seconds and its peak memory."""
    config = folder / "run.json"
    config.write_text(json.dumps(settings(folder, 1, resolution)), encoding="utf-8")
    command = [sys.executable, "-m", "lorasmith", "train", str(config), "--overwrite", "--yes"]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit("the run failed")
    return {
        "seconds": time.monotonic() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
    }


def many_images(folder: Path, count: int, resolution: int) -> dict[str, Any]:
    """Scan, sort into buckets and cache `count` images; returns seconds and memory, and what is too much."""
    make_images(folder / "few" / "images", 8)
    one_step(folder / "few", resolution)
    few = one_step(folder / "few", resolution)
    make_images(folder / "many" / "images", count)
    cold = one_step(folder / "many", resolution)
    warm = one_step(folder / "many", resolution)

    above = max(cold["peak_mb"], warm["peak_mb"]) - few["peak_mb"]
    grows: list[str] = []
    if above > PEAK_MB:
        grows.append("peak memory")
    if warm["seconds"] > WARM_SECONDS:
        grows.append("warm start")
    return {"images": count, "few": few, "cold": cold, "warm": warm, "peak_mb_above_few": above, "grows": grows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["steps", "images"])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--resolution", type=int, default=64, help="of `images`; the caches grow with its square")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if options.what == "steps":
            result = many_steps(Path(name), options.steps)
        else:
            result = many_images(Path(name), options.images, options.resolution)
    print(json.dumps(result, indent=1))
    sys.exit(1 if result["grows"] else 0)


if __name__ == "__main__":
    main()
