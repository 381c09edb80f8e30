"""Stands for SLURM on one machine: `sbatch`, `srun`, `sacct` and `scancel`, whichever name it is called by.

A job is a process in a session of its own, whose number is a file in the folder STAND_IN_SLURM.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

PLACE = Path(os.environ.get("STAND_IN_SLURM", "."))
COMMANDS = ("sbatch", "srun", "sacct", "scancel")


def install(folder: Path) -> None:
    """Put the commands into a folder for PATH."""
    folder.mkdir()
    for name in COMMANDS:
        script = folder / name
        script.write_text(f"#!{sys.executable}\n{Path(__file__).read_text()}")
        script.chmod(0o755)


def sbatch() -> None:
    """Start each job of the array."""
    script = Path(sys.argv[-1]).read_text()
    number = 1000 + len(list(PLACE.glob("*.sbatch")))
    copy = PLACE / f"{number}.sbatch"
    copy.write_text(script)
    last = re.search(r"#SBATCH --array=0-(\d+)", script)
    for index in range(int(last[1]) + 1 if last else 1):
        own = {"SLURM_JOB_ID": f"{number}{index:02}"}
        if last:
            own |= {"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(index)}
        ranks = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_STEP_NUM_TASKS": "1"}
        nodes = {"SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "1", "SLURM_JOB_NODELIST": "node01"}
        job = subprocess.Popen(
            ["bash", str(copy)],
            env={**os.environ, **own, **ranks, **nodes},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        (PLACE / (f"{number}_{index}" if last else str(number))).with_suffix(".pid").write_text(str(job.pid))
    print(f"Submitted batch job {number}")


def srun() -> None:
    """Become the command, whose output goes into the files that the options name."""
    options, command = [], sys.argv[1:]
    while command[0].startswith("--"):
        option = command.pop(0)
        options.append((option, command.pop(0) if option in ("--output", "--error") else ""))
    names = {"%A": "SLURM_ARRAY_JOB_ID", "%a": "SLURM_ARRAY_TASK_ID", "%j": "SLURM_JOB_ID", "%t": "SLURM_PROCID"}
    for option, path in options:
        for mark, name in names.items():
            path = path.replace(mark, os.environ.get(name, ""))
        if path:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1 if option == "--output" else 2)
    os.execvp(command[0], command)


def sacct() -> None:
    """Print the state of all jobs."""
    print("JobID|State|NodeList")
    for path in sorted(PLACE.glob("*.pid")):
        try:
            is_alive = ") Z " not in Path("/proc", path.read_text(), "stat").read_text()
        except OSError:
            is_alive = False
        print(f"{path.stem}|{'RUNNING' if is_alive else 'FAILED'}|node01")


def scancel() -> None:
    """End a job."""
    os.killpg(int((PLACE / f"{sys.argv[1]}.pid").read_text()), signal.SIGTERM)


if __name__ == "__main__":
    {each.__name__: each for each in (sbatch, srun, sacct, scancel)}[Path(sys.argv[0]).name]()
