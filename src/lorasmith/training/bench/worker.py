"""A process that makes the steps of one contender, on request.

Each contender has a process of its own, so that its memory, its caches and its CPU time are its own, and one contender
after the other can make a few steps. Orders come as lines of JSON on standard input, answers go out as lines of JSON.

    {"do": "build", "contender": "ours", "workload": {...}}
    {"do": "warm_up"}
    {"do": "steps", "count": 10}
    {"do": "memory"}
    {"do": "product"}
    {"do": "flops"}
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lorasmith.core.devices import backend, reset_peak_memory, synchronize
from lorasmith.core.errors import LorasmithError
from lorasmith.core.memory import peak_memory
from lorasmith.core.out_of_memory import is_out_of_memory
from lorasmith.training.bench.contenders import Step, contender_of
from lorasmith.training.bench.flops import flops_of_step
from lorasmith.training.bench.workload import Workload

WARM_UP = 3
"""Steps that are not counted: allocations, and the capture of a graph at the second step."""
SIDE = {"cuda": 8192, "cpu": 2048}
"""Of the matrices whose product is measured."""
REPEATS = {"cuda": 20, "cpu": 5}


class Worker:
    """The state between orders."""

    workload: Workload
    step: Step

    @property
    def device(self) -> torch.device:
        """Where the steps are computed."""
        return torch.device(self.workload.device)

    def build(self, contender: str, workload: dict[str, Any]) -> dict[str, float]:
        """Load, and make the first step."""
        self.workload = Workload(**workload)
        started = time.perf_counter()
        self.step = contender_of(contender).build(self.workload)
        built = time.perf_counter()
        self.steps(1)
        first = time.perf_counter()
        return {"build_s": built - started, "first_step_s": first - built}

    def warm_up(self) -> dict[str, float]:
        """Make steps that are not counted; the peak of memory counts from then on."""
        if self.device.type != "cpu":
            backend(self.device.type).empty_cache()
        self.steps(WARM_UP)
        reset_peak_memory(self.device)
        if self.device.type == "cpu":
            # of Linux, proc(5): 5 sets the peak of the process to what it uses now
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return {}

    def steps(self, count: int) -> dict[str, float]:
        """Seconds and CPU-seconds a step. A step does not wait for the one before; the last is waited for."""
        synchronize(self.device)
        started, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            self.step()
        synchronize(self.device)
        return {"s": (time.perf_counter() - started) / count, "cpu_s": (time.process_time() - cpu) / count}

    def memory(self) -> dict[str, float]:
        """Peak memory in GiB: of the device reserved by torch and in use by tensors, or of the process on a CPU."""
        used = peak_memory(self.device) / 2**30
        if self.device.type == "cpu":
            return {"peak_gib": used, "allocated_gib": used}
        return {"peak_gib": backend(self.device.type).max_memory_reserved(self.device) / 2**30, "allocated_gib": used}

    def product(self) -> dict[str, float]:
        """TFLOP/s of a matrix product in the precision of the workload."""
        kind = "cpu" if self.device.type == "cpu" else "cuda"
        side = SIDE[kind]
        options: dict[str, Any] = {"device": self.device, "dtype": self.workload.dtype}
        a, b = (torch.randn(side, side, **options) for _ in range(2))
        seconds: list[float] = []
        for _ in range(REPEATS[kind]):
            synchronize(self.device)
            started = time.perf_counter()
            torch.mm(a, b)
            synchronize(self.device)
            seconds.append(time.perf_counter() - started)
        del a, b
        return {"tflops": 2 * side**3 / statistics.median(seconds) / 1e12}

    def flops(self) -> dict[str, float]:
        """TFLOP of a step, counted on a network without memory."""
        return {"tflop": flops_of_step(self.workload) / 1e12}


def answer(worker: Worker, order: dict[str, Any]) -> dict[str, Any]:
    """The answer to an order; `error` and `mistake` (whether the user can repair it) if it failed."""
    orders: dict[str, Callable[..., dict[str, float]]] = {
        "build": worker.build,
        "warm_up": worker.warm_up,
        "steps": worker.steps,
        "memory": worker.memory,
        "product": worker.product,
        "flops": worker.flops,
    }
    name = order.pop("do")
    try:
        return dict(orders[name](**order))
    except LorasmithError as error:
        return {"error": str(error), "mistake": True}
    except Exception as error:
        if is_out_of_memory(error):
            return {"error": "out of memory", "mistake": False}
        lines = str(error).splitlines() or [""]
        return {"error": f"{type(error).__name__}: {lines[0][:300]}", "mistake": False}


def main() -> None:
    """Answer orders until standard input ends."""
    # Libraries print on standard output, which belongs to the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        print(json.dumps(answer(worker, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
