"""The interface of an executor: where the processes of a sweep or a queue run.

A sweep and a queue know runs by their folders alone. An executor starts a process for a run, says whether it has ended,
and stops it. To add an engine, add a file with a kind of `Executor`; `remote.py` has what those with several machines
have in common.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import ValidationError

from lorasmith.core.config import override, problems_of
from lorasmith.core.errors import ConfigError, LorasmithError, did_you_mean
from lorasmith.core.registry import Component, registered


@dataclass(frozen=True)
class Task:
    """A process to run. All paths are absolute."""

    name: str
    run: Path
    """The folder of the run."""
    command: Sequence[str]
    """Begins the run, or continues it."""
    resume: Sequence[str]
    """Continues the run after its node was lost; empty if the folder may hold a run of somebody else."""
    log: Path
    """Gets what the process prints."""
    folder: Path
    """For the files with which an engine and its nodes talk about this task. A local process needs none."""
    directory: Path
    """Where the process starts, and relative paths of its config with it."""
    threads: int | None = None
    """CPU threads of the process; None: the default of PyTorch."""
    empty_log: bool = False
    """Whether the log of an earlier session is replaced."""


@dataclass(frozen=True)
class Ended:
    """How a process has ended."""

    code: int | None
    """Its exit code; None if that is not known, since an earlier program had started it."""
    message: str = ""
    """What the engine says, if the process has not ended by itself."""


class Handle(Protocol):
    """A process that was started."""

    @property
    def reference(self) -> dict[str, Any]:
        """JSON data from which `Session.find` finds the process again."""
        ...

    def poll(self) -> Ended | None:
        """How the process has ended; None while it runs or waits to run."""
        ...

    def stop(self, at_once: bool = False) -> None:
        """End the run after its current step, with a checkpoint. With `at_once`, kill it."""
        ...

    def news(self) -> str:
        """What has changed since the last call, such as the node that the run is on; empty if nothing has."""
        ...


class Session(ABC):
    """A connection to an engine."""

    engine: str = ""
    """The kind of its executor; empty for processes of this machine."""

    @abstractmethod
    def free_device(self, occupied: Sequence[str]) -> str | None:
        """The device for a further run, when runs on the devices `occupied` are under way; None if there is no place.
        An empty device is that of the run's config."""

    def threads(self) -> int | None:
        """CPU threads of each run; None: the default of PyTorch."""
        return None

    @abstractmethod
    def start(self, tasks: Sequence[Task]) -> list[Handle]:
        """Start a process for each task, which outlives this one where the engine can do that."""

    @abstractmethod
    def find(self, reference: Mapping[str, Any], task: Task) -> Handle | None:
        """The process that an earlier session has started for the task; None if it has ended or is lost."""


class Executor(Component, root="executor", default="local"):
    """An engine, with its settings."""

    fills_cache_first: ClassVar[bool] = True
    """Whether the first run of a sweep is alone until it has filled the cache, so that no image is encoded twice."""
    has_queue: ClassVar[bool] = False
    """Whether the engine takes any number of runs, and starts them when there is place."""
    survives_terminal: ClassVar[bool] = False
    """Whether runs go on when the terminal of the program that started them is closed."""

    @abstractmethod
    def open(self, folder: Path, jobs: int | None, device: str) -> AbstractContextManager[Session]:
        """Connect to the engine. Raises LorasmithError if that cannot be done, before anything is started.

        `folder`: that of the sweep or queue. `jobs`: the number of runs at a time; None: as many as there are places.
        `device`: that of the config, `auto` if it names none.
        """


def make_executor(
    on: str, options: Sequence[str] = (), devices: Sequence[str] = (), **resources: float | None
) -> Executor:
    """The executor `on`, with `key=value` options, `devices` of this machine, and `resources` on a cluster
    (`gpus_per_run`, `cpus_per_run`; None: the default).

    Raises LorasmithError if there is no such executor or they do not fit each other, and ConfigError if an option is
    wrong.
    """
    kinds = registered(Executor)
    if on not in kinds:
        hint = did_you_mean(on, kinds)
        raise LorasmithError(
            f'--on: there is no engine "{on}"{f"; {hint}" if hint else ""} (there are {", ".join(sorted(kinds))})'
        )
    if devices and "devices" not in kinds[on].model_fields:
        raise LorasmithError(f"--device names devices of this machine, and --on {on} places the runs; give one of them")
    given: dict[str, Any] = {key: value for key, value in resources.items() if value is not None}
    wrong = [key for key in given if key not in kinds[on].model_fields]
    if wrong:
        raise LorasmithError(
            f"--{wrong[0].replace('_', '-')} is for engines that place runs; on this machine, --device and --jobs say "
            "where runs are and how many. Engines: --on ray, --on slurm"
        )
    if devices:
        given["devices"] = tuple(devices)
    try:
        return kinds[on].model_validate({"kind": on, **override({}, list(options)), **given})
    except ValidationError as error:
        raise ConfigError(problems_of(error, kinds[on]), f"--on-option of --on {on}") from None
