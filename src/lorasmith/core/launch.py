"""Which process (rank) of a run this is, as its launcher sets it in the environment.

One run can be several processes, on one machine or many. They are started by torchrun, by `accelerate launch`, or by
SLURM's srun; each of these sets variables that tell a process its rank. This module needs no torch.
"""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorasmith.core.errors import LorasmithError

PORT = 29400
"""Where the first rank listens if the launcher names no port; a number made of the job's is added to it."""

SECONDS_TO_END = 60.0
"""How long the other ranks have to notice that one has ended with an error, before they are terminated."""


@dataclass(frozen=True)
class Launch:
    """This process: rank `index` of `count`, `local` among those of its machine; where the first rank listens."""

    index: int = 0
    count: int = 1
    local: int = 0
    address: str = ""
    port: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and prints."""
        return self.index == 0


def find_launch(environment: Mapping[str, str] | None = None) -> Launch:
    """The rank of this process; a run of one process if no launcher has set anything.

    The variables are RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, which torchrun, accelerate and
    PyTorchJob of Kubernetes set; otherwise SLURM's, which srun sets. Raises LorasmithError if they contradict each
    other.
    """
    env = os.environ if environment is None else environment
    # torchrun under srun is the inner launcher, so its variables count
    if "RANK" in env and "WORLD_SIZE" in env:
        launch = launch_of_torchrun(env)
    elif "SLURM_PROCID" in env and "SLURM_STEP_NUM_TASKS" in env:
        launch = launch_of_slurm(env)
    else:
        return Launch()
    # a launcher can also start a single process
    if launch.count <= 1:
        return Launch()
    if not 0 <= launch.index < launch.count:
        raise LorasmithError(
            f"the launcher calls this process rank {launch.index} of {launch.count}; ranks count from 0"
        )
    if not launch.address or not launch.port:
        raise LorasmithError(
            f"this is rank {launch.index} of {launch.count}, but MASTER_ADDR and MASTER_PORT do not say where rank 0 "
            "listens. Start the run with torchrun, accelerate launch or srun; or set both, the same for all ranks. "
            "If it is to be a run of one process, unset RANK and WORLD_SIZE."
        )
    return launch


def launch_of_torchrun(env: Mapping[str, str]) -> Launch:
    """What torchrun, accelerate and PyTorchJob set, unchecked."""
    return Launch(
        index=read_number(env, "RANK"),
        count=read_number(env, "WORLD_SIZE"),
        local=read_number(env, "LOCAL_RANK"),
        address=env.get("MASTER_ADDR", ""),
        port=read_number(env, "MASTER_PORT"),
    )


def launch_of_slurm(env: Mapping[str, str]) -> Launch:
    """What srun sets, unchecked. The first rank runs on the first node, on a port that follows from the job."""
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
    return Launch(
        index=read_number(env, "SLURM_PROCID"),
        count=read_number(env, "SLURM_STEP_NUM_TASKS"),
        local=read_number(env, "SLURM_LOCALID"),
        address=env.get("MASTER_ADDR") or first_node(nodes),
        port=read_number(env, "MASTER_PORT") or PORT + read_number(env, "SLURM_JOB_ID") % 10000,
    )


def first_node(nodes: str) -> str:
    """The first host of a SLURM list: `gpu[03-05,9],cpu1` gives `gpu03`."""
    # up to the first comma that is not inside brackets
    first_entry = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes.strip())
    if first_entry is None:
        return ""
    # of a range or list in brackets, the first number
    return re.sub(r"\[(\d*)[^\]]*\]", r"\1", first_entry.group())


def read_number(env: Mapping[str, str], name: str) -> int:
    """A variable as a whole number; 0 if it is not set. Raises LorasmithError for anything else."""
    text = env.get(name) or "0"
    if not text.isdigit():
        raise LorasmithError(f'{name} is "{text}"; the launcher should set it to a whole number')
    return int(text)


def run_ranks(command: Sequence[str], count: int) -> int:
    """Run a command in `count` processes of one run on this machine; returns 0, or the exit code of the first rank that
    failed. Signals that stop this process are passed on, and each rank then stops as a single process does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    address = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count))}
    # Groups of their own, so that Ctrl-C reaches each rank once: through this process.
    own_group = 0 if os.name == "posix" else None
    ranks: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _frame: object) -> None:
        for rank in ranks:
            rank.send_signal(number)

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        for index in range(count):
            place = {"RANK": str(index), "LOCAL_RANK": str(index)}
            environment = threads | os.environ | address | place
            ranks.append(subprocess.Popen(command, env=environment, process_group=own_group))
        return wait_for_ranks(ranks)
    finally:
        for rank in ranks:
            rank.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for_ranks(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    """0 when all have succeeded, else the exit code of the first rank that failed."""
    first_failure = 0
    deadline = math.inf
    while True:
        codes = [rank.poll() for rank in ranks]
        failures = [code for code in codes if code]
        if failures and not first_failure:
            first_failure = failures[0]
            deadline = time.monotonic() + SECONDS_TO_END
        if None not in codes:
            return first_failure
        if time.monotonic() > deadline:
            for rank in ranks:
                rank.terminate()
        time.sleep(0.1)
