"""Which process of a run this is, as its launcher says it in the environment.

One run may be several processes (ranks), on one machine or many. They are started by torchrun, by `accelerate launch`,
or by SLURM's srun; each tells a process its place by variables. Needs no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from lorasmith.core.errors import LorasmithError

PORT = 29400
"""Where the first rank listens if the launcher names no port; to it a number made of the job's is added."""


@dataclass(frozen=True)
class Launch:
    """This process: `index` of `count` ranks, `local` among those of its machine; where the first rank listens."""

    index: int = 0
    count: int = 1
    local: int = 0
    address: str = ""
    port: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.index == 0


def launched(environment: Mapping[str, str] | None = None) -> Launch:
    """The place of this process; a run of one where no launcher said anything.

    Read are RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT, which torchrun and accelerate set, and PyTorchJob
    of Kubernetes likewise; else SLURM's, which srun sets. Raises LorasmithError where they contradict each other.
    """
    env = os.environ if environment is None else environment
    if "RANK" in env and "WORLD_SIZE" in env:
        index, count, local = (_number(env, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        address, port = env.get("MASTER_ADDR", ""), _number(env, "MASTER_PORT")
    elif "SLURM_PROCID" in env and "SLURM_STEP_NUM_TASKS" in env:
        index, count, local = (_number(env, f"SLURM_{name}") for name in ("PROCID", "STEP_NUM_TASKS", "LOCALID"))
        nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
        address = env.get("MASTER_ADDR") or first_node(nodes)
        port = _number(env, "MASTER_PORT") or PORT + _number(env, "SLURM_JOB_ID") % 10000
    else:
        return Launch()
    if count <= 1:
        return Launch()
    if not 0 <= index < count:
        raise LorasmithError(f"the launcher calls this process rank {index} of {count}; ranks count from 0")
    if not address or not port:
        raise LorasmithError(
            f"this is rank {index} of {count}, but MASTER_ADDR and MASTER_PORT do not say where rank 0 listens. "
            "Start the run with torchrun, accelerate launch or srun; or set both, the same for all ranks. "
            "If it is to be a run of one process, unset RANK and WORLD_SIZE."
        )
    return Launch(index, count, local, address, port)


def first_node(nodes: str) -> str:
    """The first host of a SLURM list: `gpu[03-05,9],cpu1` gives `gpu03`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes.strip())
    return re.sub(r"\[(\d*)[^\]]*\]", r"\1", first.group()) if first else ""


def _number(env: Mapping[str, str], name: str) -> int:
    text = env.get(name) or "0"
    if not text.isdigit():
        raise LorasmithError(f'{name} is "{text}"; the launcher should give a whole number')
    return int(text)
