"""Runs of a comparison, each in a process of its own; what is finished is kept, so that the same command goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

Job = tuple[str, int]
"""What is compared, and the seed."""
RESULT = "RESULT "
"""Beginning of the line with which a process gives its result, as JSON."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The results so far."""
    return json.loads(path.read_text()) if path.exists() else []


def run_jobs(
    module: str,
    jobs: Sequence[Job],
    arguments: Sequence[object],
    rows: list[dict[str, Any]],
    to: Path,
    at_a_time: int,
    environment_of: Callable[[Job], Mapping[str, str]] = lambda job: os.environ,
) -> None:
    """Run `python -m MODULE --only NAME SEED ARGUMENTS` for each job; add the results to `rows`, and write them."""

    def start(job: Job) -> None:
        command = [sys.executable, "-m", module, "--only", *job, *arguments]
        answer = subprocess.run(
            [str(part) for part in command], stdout=subprocess.PIPE, text=True, env=environment_of(job)
        )
        for line in answer.stdout.splitlines():
            if line.startswith(RESULT):
                rows.append(json.loads(line.removeprefix(RESULT)))
                print(line, flush=True)
        to.write_text(json.dumps(rows, indent=1) + "\n")

    with ThreadPoolExecutor(at_a_time) as pool:
        list(pool.map(start, jobs))
