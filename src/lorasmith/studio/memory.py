"""How much memory a process uses, also on a GPU."""

from __future__ import annotations

import shutil
import subprocess

import psutil


def memory_of(number: int) -> dict[str, int | None]:
    """Bytes that a process uses: `process`, and `gpu` if that can be known."""
    try:
        resident = psutil.Process(number).memory_info().rss
    except psutil.Error:
        resident = None
    return {"process": resident, "gpu": gpu_memory_of(number)}


def gpu_memory_of(number: int) -> int | None:
    """Bytes on NVIDIA GPUs that a process uses, as nvidia-smi says; None without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=3, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    rows = [line.split(",") for line in done.stdout.splitlines()]
    mebibytes = [
        int(row[1]) for row in rows if len(row) == 2 and row[0].strip() == str(number) and row[1].strip().isdigit()
    ]
    return sum(mebibytes) << 20 if mebibytes else None
