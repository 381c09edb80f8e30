"""Runs as tasks of a Ray cluster, which places them by their GPUs and runs them again when a node is lost."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lorasmith.core.errors import LorasmithError
from lorasmith.training.executors.base import Ended, Session
from lorasmith.training.executors.remote import EngineJob, RemoteExecutor, RemoteSession
from lorasmith.training.executors.shared_task import InterruptedRunError, NotSharedError, SharedTask
from lorasmith.training.job_process import STOPPED_EXIT_CODE

ENGINE = "ray"
LONGEST_MESSAGE = 300
"""Characters of a message of Ray, whose rest is the state of its processes."""


class RayExecutor(RemoteExecutor):
    """Tasks of a Ray cluster. Ray runs a task on another node when its node is lost."""

    kind: Literal["ray"] = "ray"
    address: str = ""
    """Of the cluster: `host:port`. Default: RAY_ADDRESS, else the cluster on this machine, else a new one on it."""
    retries: int = Field(3, ge=0)
    """How often a run is started again after its node was lost. It continues from its last checkpoint."""
    wait_for_nodes: bool = False
    """Wait if no node of the cluster is large enough for a run, since the cluster grows by itself."""

    @contextmanager
    def open(self, folder: Path, jobs: int | None, device: str) -> Iterator[Session]:
        ray = import_ray()
        connect(ray, self.address)
        with redirect_stdout(RayMessages()), ended(ray):
            has_gpus = bool(ray.cluster_resources().get("GPU"))
            gpus = self.gpus(device, default=1.0 if has_gpus else 0.0)
            session = RaySession(ray, self, jobs, gpus)
            if not session.places() and not self.wait_for_nodes:
                raise too_small(session)
            yield session


@contextmanager
def ended(ray: Any) -> Iterator[None]:
    """Disconnects at the end, which ends the tasks that are left."""
    try:
        yield
    finally:
        ray.shutdown()


class RayMessages(io.TextIOBase):
    """What Ray prints to stdout, which is for results: shortened, on stderr."""

    def write(self, text: str, /) -> int:
        sys.stderr.write(text.strip().splitlines()[0][:LONGEST_MESSAGE] if "(raylet)" in text else text)
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()


class RaySession(RemoteSession):
    """A connection to a Ray cluster, which ends what this program has started there when it is closed."""

    engine = ENGINE

    def __init__(self, ray: Any, executor: RayExecutor, jobs: int | None, gpus: float) -> None:
        self.ray, self.executor, self.jobs = ray, executor, jobs
        self.needs = {"CPU": float(executor.cpus_per_run), "GPU": gpus}
        self.device, self.cpus = executor.run_device(gpus), executor.cpus_per_run
        self._run = ray.remote(
            num_cpus=executor.cpus_per_run,
            num_gpus=gpus,
            max_retries=executor.retries,
            retry_exceptions=[InterruptedRunError],
        )(run_task)

    def nodes(self) -> list[dict[str, float]]:
        """The resources of the nodes that are alive."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def places(self) -> int:
        """How many runs the cluster holds at once, as it is now."""
        needs = {name: amount for name, amount in self.needs.items() if amount}
        return sum(min(int(node.get(name, 0) / amount) for name, amount in needs.items()) for node in self.nodes())

    def free_device(self, occupied: Sequence[str]) -> str | None:
        # one run waits where the cluster has no place yet
        limit = self.jobs or max(1, self.places())
        return self.device if len(occupied) < limit else None

    def submit(self, tasks: Sequence[SharedTask], names: Sequence[str]) -> list[EngineJob]:
        return [
            RayJob(self, self._run.options(name=name).remote(task)) for task, name in zip(tasks, names, strict=True)
        ]

    def find_job(self, reference: Mapping[str, Any]) -> EngineJob | None:
        # Ray ends the tasks of a program that has ended
        return None


class RayJob:
    """A task of Ray."""

    def __init__(self, session: RaySession, result: Any) -> None:
        self.session, self.ray, self.result = session, session.ray, result
        self.reference: dict[str, Any] = {}

    def poll(self) -> Ended | None:
        ready, _ = self.ray.wait([self.result], timeout=0)
        if not ready:
            return None
        errors = self.ray.exceptions
        try:
            return Ended(self.ray.get(self.result))
        except errors.TaskCancelledError:
            return Ended(STOPPED_EXIT_CODE)
        except errors.RayTaskError as error:
            return Ended(None, describe(error.cause if error.cause is not None else error))
        except errors.RayError as error:
            first_line = str(error).strip().splitlines()[0]
            retries = self.session.executor.retries
            return Ended(None, f"Ray: {first_line} (it may be started again {retries} times: --on-option retries=N)")

    def cancel(self, at_once: bool) -> None:
        self.ray.cancel(self.result, force=False)

    def waits_for(self) -> str:
        free, all_of = self.ray.available_resources(), self.ray.cluster_resources()
        needs = [name for name, amount in self.session.needs.items() if amount]
        return ", ".join(f"{name} ({free.get(name, 0):g} of {all_of.get(name, 0):g} free)" for name in needs)


def run_task(task: SharedTask) -> int:
    """What a worker of Ray runs."""
    return task()


def describe(error: BaseException) -> str:
    """An error on a node, in one line."""
    if isinstance(error, NotSharedError | InterruptedRunError):
        return str(error)
    return f"{type(error).__name__} on the node: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def import_ray() -> Any:
    """The package `ray`. Raises LorasmithError if it is not installed."""
    # Ray reports the start of a cluster to its makers unless that is switched off
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return import_module("ray")
    except ImportError:
        raise LorasmithError('--on ray needs Ray, here and on each node: pip install "lorasmith[ray]"') from None


def connect(ray: Any, address: str) -> None:
    """Connect to a cluster, or start one on this machine. Raises LorasmithError if there is none at the address."""
    try:
        ray.init(address=address or None, log_to_driver=False, logging_level="ERROR", include_dashboard=None)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LorasmithError(
            f"--on ray: no cluster answers at {address or os.environ.get('RAY_ADDRESS', 'this machine')} ({reason}). "
            'Start one with "ray start --head" and give its address: --on-option address=HOST:6379'
        ) from None


def too_small(session: RaySession) -> LorasmithError:
    """The error for a cluster none of whose nodes can hold a run."""
    needs = " and ".join(f"{amount:g} {name}" for name, amount in session.needs.items() if amount)
    nodes = "; ".join(f"{n.get('CPU', 0):g} CPU, {n.get('GPU', 0):g} GPU" for n in session.nodes())
    return LorasmithError(
        f"--on ray: a run needs {needs}, and no node of the cluster has that (its nodes: {nodes}). Change "
        "--gpus-per-run or --cpus-per-run, or wait for larger nodes with --on-option wait_for_nodes=true"
    )
