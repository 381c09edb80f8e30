"""Runs as jobs of SLURM, submitted as arrays by submitit. A job that reaches its time limit or is preempted saves a
checkpoint, and SLURM puts it into its queue again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from lorasmith.core.errors import LorasmithError
from lorasmith.training.executors.base import Ended, Session
from lorasmith.training.executors.remote import EngineJob, RemoteExecutor, RemoteSession
from lorasmith.training.executors.shared_task import SharedTask

ENGINE = "slurm"
FOLDER = "slurm"
"""In the folder of the sweep or queue: what submitit writes, with the output of each job."""
MANY = 10_000
ASK_INTERVAL = 30.0
"""Seconds between two questions to SLURM's accounting, which answers for all jobs at once."""
SECONDS_UNKNOWN = 900.0
ENDED_STATES = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "FINISHED",
    "INTERRUPTED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "TIMEOUT",
)
"""States of sacct(1) after which SLURM does nothing more for a job; FINISHED and INTERRUPTED are submitit's own, for
processes in place of jobs."""


class SlurmExecutor(RemoteExecutor):
    """Jobs of SLURM, submitted as an array."""

    kind: Literal["slurm"] = "slurm"
    fills_cache_first: ClassVar[bool] = False
    has_queue: ClassVar[bool] = True
    survives_terminal: ClassVar[bool] = True

    partition: str = ""
    """The partition of the jobs, as sbatch takes it; so are the next three."""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    minutes: int = Field(240, ge=1)
    """Time limit of a job. A run that needs longer continues in the next job."""
    memory_gb: float | None = Field(None, gt=0)
    """CPU memory of a job. Default: that of the partition."""
    save_seconds: int = Field(120, ge=1)
    """How long before its time limit a job begins to save a checkpoint."""
    time_limits: int = Field(100, ge=0)
    """How often a run may reach its time limit."""
    sbatch: dict[str, str | int | bool] = Field(default_factory=dict)
    """Further parameters of sbatch: `--on-option sbatch.exclude=gpu03`."""
    cluster: Literal["slurm", "local"] = "slurm"
    """`local`: processes of this machine in place of jobs, to try all this without SLURM."""

    @contextmanager
    def open(self, folder: Path, jobs: int | None, device: str) -> Iterator[Session]:
        submitit = import_submitit()
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise LorasmithError(
                "--on slurm: there is no sbatch on this machine; start the command on a login node of the cluster. "
                "To try it without SLURM: --on-option cluster=local"
            )
        gpus = self.gpus(device)
        if gpus % 1:
            raise LorasmithError(f"--gpus-per-run {gpus:g}: SLURM gives whole GPUs; give 0 or 1")
        place = (folder / FOLDER).absolute()
        executor = submitit.AutoExecutor(
            place, cluster=self.cluster, **{f"{self.cluster}_max_num_timeout": self.time_limits}
        )
        executor.update_parameters(**self.parameters(int(gpus), jobs))
        yield SlurmSession(submitit, executor, place, self, self.run_device(gpus))

    def parameters(self, gpus: int, jobs: int | None) -> dict[str, Any]:
        """Parameters of submitit."""
        shared = {"name": "lorasmith", "timeout_min": self.minutes, "mem_gb": self.memory_gb}
        shared["gpus_per_node"] = gpus or None
        if self.cluster == "local":
            return {**shared, "cpus_per_task": self.cpus_per_run}
        named = {name: getattr(self, name) or None for name in ("partition", "account", "qos", "constraint")}
        return {
            **shared,
            "cpus_per_task": self.cpus_per_run,
            "slurm_signal_delay_s": self.save_seconds,
            "slurm_array_parallelism": jobs or MANY,
            "slurm_additional_parameters": dict(self.sbatch) or None,
            **{f"slurm_{name}": value for name, value in named.items()},
        }


class SavingTask(SharedTask):
    """A task that submitit asks to save its work when the time limit or a preemption is near."""

    def checkpoint(self) -> Any:
        """Save a checkpoint, and name what the next job of the task calls."""
        self.save()
        return import_submitit().helpers.DelayedSubmission(SavingTask(self.folder, self.token))


class SlurmSession(RemoteSession):
    """A connection to SLURM, whose jobs go on without it."""

    engine = ENGINE

    def __init__(self, submitit: Any, executor: Any, folder: Path, settings: SlurmExecutor, device: str) -> None:
        self.submitit, self.executor, self.folder = submitit, executor, folder
        self.cluster, self.device, self.cpus = settings.cluster, device, settings.cpus_per_run

    def free_device(self, occupied: Sequence[str]) -> str | None:
        # SLURM has a queue of its own; the array says how many of its jobs run at a time
        return self.device

    def submit(self, tasks: Sequence[SharedTask], names: Sequence[str]) -> list[EngineJob]:
        try:
            jobs = self.executor.submit_array([SavingTask(task.folder, task.token) for task in tasks])
        except self.submitit.core.utils.FailedJobError as error:
            raise LorasmithError(f"--on slurm: sbatch has refused the jobs: {last_line(str(error))}") from None
        return [SlurmJob(job, self.cluster == "slurm") for job in jobs]

    def find_job(self, reference: Mapping[str, Any]) -> EngineJob | None:
        number = reference.get("job")
        if not isinstance(number, str) or self.cluster != "slurm":
            return None
        return SlurmJob(self.submitit.SlurmJob(self.folder, number), True)


class SlurmJob:
    """A job of SLURM, or with `is_slurm` false a process in place of one."""

    queried_at: ClassVar[float] = 0.0
    """When SLURM's accounting was queried last, for all jobs."""

    def __init__(self, job: Any, is_slurm: bool) -> None:
        self.job, self.is_slurm = job, is_slurm
        # processes in place of jobs cannot be found again by their number
        self.reference: dict[str, Any] = {"job": str(job.job_id)} if is_slurm else {}
        self.unknown_since: float | None = None

    def poll(self) -> Ended | None:
        if self.job.paths.result_pickle.is_file():
            error = self.job.exception()
            if error is None:
                return Ended(self.job.result())
            return Ended(None, f"{self.what()}: {last_line(str(error))}; its output: {self.job.paths.stderr}")
        state = self.state().split(" ")[0].rstrip("+")
        if state in ENDED_STATES:
            return Ended(None, f"{self.what()} has ended: {state}; its output: {self.job.paths.stderr}")
        # accounting needs a while to know a new job, and forgets old ones
        self.unknown_since = (self.unknown_since or time.monotonic()) if state == "UNKNOWN" else None
        if self.unknown_since is not None and time.monotonic() >= self.unknown_since + SECONDS_UNKNOWN:
            return Ended(None, f"{self.what()} is not known to sacct")
        return None

    def what(self) -> str:
        return f"the SLURM job {self.job.job_id}"

    def state(self) -> str:
        """The state in SLURM's accounting, which is queried from time to time."""
        if not self.is_slurm:
            return str(self.job.state)
        watcher = self.job.watcher
        if time.monotonic() >= SlurmJob.queried_at + ASK_INTERVAL:
            SlurmJob.queried_at = time.monotonic()
            watcher.update()
        return str(watcher.get_state(self.job.job_id, mode="cache"))

    def cancel(self, at_once: bool) -> None:
        self.job.cancel(check=False)

    def waits_for(self) -> str:
        return f"its turn ({self.what()}, {self.state()})"


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def import_submitit() -> Any:
    """The package `submitit`. Raises LorasmithError if it is not installed."""
    try:
        return import_module("submitit")
    except ImportError:
        raise LorasmithError('--on slurm needs submitit, also on the nodes: pip install "lorasmith[slurm]"') from None
