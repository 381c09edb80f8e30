"""List the lines of code that one training step executes, and write them into docs/architecture.md.

    python -m tools.step_trace           # write
    python -m tools.step_trace --check   # exit 1 if what is there is not current

A real step is traced: an SD 1.x base with random weights, fp32, on the CPU, a plain LoRA on the UNet. With its latents
and texts cached, the step reads them from the cache; without, it reads, crops and encodes the image, and encodes the
caption. A line counts if Python executed it between the call of `train_step` and its return. It is the second step of
the run, because the first one also imports modules and loads the models that encode.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tools import loss_fingerprints
from tools.markdown import fold

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "lorasmith"
TARGET = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- step trace -->", "<!-- end of step trace -->"
NETWORKS = ("families/", "adapters/")
"""Folders of the networks: the model families with their layers and operations, and the adapters on the layers."""
STANDS_FOR_TORCH = "core/deferred_torch.py"
"""Not listed, as torch itself is not: it passes accesses on to torch."""

Lines = dict[str, set[int]]
"""Executed lines by file, relative to `src/lorasmith`."""


@dataclass(frozen=True)
class StepTrace:
    """What one step executes."""

    cached: Lines
    """With latents and texts in the cache."""
    uncached: Lines
    """With nothing in the cache."""

    def table(self) -> str:
        """The lists as Markdown."""
        added = {name: lines - self.cached.get(name, set()) for name, lines in self.uncached.items()}
        parts = [
            section("The step, with latents and texts in the cache", self.cached),
            section("Without a cache, in addition", {name: lines for name, lines in added.items() if lines}),
        ]
        return "\n\n".join(parts)


def section(title: str, executed: Lines) -> str:
    """A table of files outside the networks, and a sentence about the networks."""
    step = {name: lines for name, lines in executed.items() if not is_network(name)}
    networks = {name: lines for name, lines in executed.items() if is_network(name)}
    total = sum(map(len, step.values()))
    rows = [f"**{title}**: {total} lines in {len(step)} files", "", "| file | lines executed |", "| --- | --- |"]
    for name in sorted(step, key=lambda name: (-len(step[name]), name)):
        rows.append(f"| [{name}](../src/lorasmith/{name}) | {len(step[name])} |")
    network_lines = sum(map(len, networks.values()))
    names = ", ".join(f"[{name}](../src/lorasmith/{name}) {len(networks[name])}" for name in sorted(networks))
    return "\n".join([*rows, "", fold(f"In the networks: {network_lines} lines. {names}.")])


def is_network(name: str) -> bool:
    return name.startswith(NETWORKS)


def trace_step() -> StepTrace:
    """Make one step with a filled cache, and one without."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        previous = os.environ.get("LORASMITH_CACHE")
        os.environ["LORASMITH_CACHE"] = str(workspace / "cache")
        try:
            return StepTrace(trace_of(workspace, cached=True), trace_of(workspace, cached=False))
        finally:
            if previous is None:
                del os.environ["LORASMITH_CACHE"]
            else:
                os.environ["LORASMITH_CACHE"] = previous


def trace_of(workspace: Path, *, cached: bool) -> Lines:
    """The lines of one step of a new run."""
    from lorasmith.training.config import load_config
    from lorasmith.training.setup.build import build_run
    from lorasmith.training.step.loop import remaining_steps, train_step

    table = loss_fingerprints.common("sd1", workspace)
    table["output"] = str(workspace / f"run-{cached}")
    table["adapter"] = loss_fingerprints.LORA
    if not cached:
        # Captions that change in more ways than can be cached, and latents that are not cached.
        table["data"] |= {"cache_latents": False, "workers": 0, "transforms": [{"kind": "tag_dropout", "rate": 0.5}]}
    run = build_run(load_config(table))
    run.adapters.train()
    steps = remaining_steps(run)
    try:
        train_step(run, *next(steps))
        epoch, plans = next(steps)
        return executed_lines(lambda: train_step(run, epoch, plans))
    finally:
        run.events.close()
        run.adapters.detach()


def executed_lines(function: Callable[[], object]) -> Lines:
    """The lines of this package that a call executes."""
    executed: Lines = {}
    prefix = f"{SOURCE}{os.sep}"

    def trace_call(frame: FrameType, event: str, argument: Any) -> Callable[[FrameType, str, Any], Any] | None:
        path = frame.f_code.co_filename
        if not path.startswith(prefix) or frame.f_code.co_name == "<module>":
            return None
        lines = executed.setdefault(Path(path.removeprefix(prefix)).as_posix(), set())

        def trace_line(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line":
                lines.add(frame.f_lineno)
            return trace_line

        return trace_line

    previous = sys.gettrace()
    sys.settrace(trace_call)
    try:
        function()
    finally:
        sys.settrace(previous)
    executed.pop(STANDS_FOR_TORCH, None)
    return {name: lines for name, lines in executed.items() if lines}


def page(text: str, trace: StepTrace) -> str:
    """The page with the lists of `trace` between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{trace.table()}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is not current")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    text = TARGET.read_text(encoding="utf-8")
    current = page(text, trace_step())
    if not arguments.check:
        TARGET.write_text(current, encoding="utf-8")
    elif text != current:
        sys.exit(f"{TARGET.name} does not list what a step executes; run: python -m tools.step_trace")


if __name__ == "__main__":
    main()
