"""One run of a sweep: its config, its process and its state.

The state of a run is read from its folder alone: a finished run is not repeated, a stopped one is continued.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import write_text
from lorasmith.training.config import TrainConfig, load_config
from lorasmith.training.executors import Handle, Task
from lorasmith.training.executors.shared_task import read_json
from lorasmith.training.job_process import STOPPED_EXIT_CODE, last_error
from lorasmith.training.output.folder import CONFIG, named_code, reopen
from lorasmith.training.output.report.record import Record, read
from lorasmith.training.sweep.axes import Values, folder_name

State = Literal["waiting", "running", "finished", "failed", "pruned", "stopped"]

NOT_COMPARED = ("output", "device", "threads")
"""Settings that may change when a run is continued, because they do not change its results."""
PRUNED = "pruned"
"""File in the folder of a run that the search has ended early."""


@dataclass
class Job:
    """A run of the sweep."""

    values: Values
    config: TrainConfig
    """The config with the values. Its `output` is a folder in the sweep's folder."""
    state: State = "waiting"
    message: str = ""
    """The error, if the run has failed."""
    handle: Handle | None = field(default=None, repr=False)
    """The process, while it is under way."""

    @property
    def folder(self) -> Path:
        return self.config.output

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def sweep(self) -> Path:
        """The folder of the sweep."""
        return self.folder.parent.parent

    @property
    def log(self) -> Path:
        """The file with the output of the process."""
        return self.sweep / "logs" / f"{self.name}.log"

    @property
    def begun(self) -> bool:
        """Whether the run has been started before, so that it is continued."""
        return (self.folder / CONFIG).is_file()

    @property
    def pruned(self) -> bool:
        """Whether the search has ended the run early."""
        return (self.folder / PRUNED).exists()

    def record(self) -> Record | None:
        """What the run has written so far."""
        return read(self.folder) if (self.folder / "events.jsonl").is_file() else None

    @property
    def reference(self) -> Path:
        """The file from which the process can be found again."""
        return self.sweep / "tasks" / f"{self.name}.json"

    def task(self, device: str, threads: int | None) -> Task:
        """The process that starts or continues the run. Writes the config that it reads. `threads`: its CPU threads."""
        (self.folder / PRUNED).unlink(missing_ok=True)
        # the settings of a run in the folder are those that the sweep was given, or it would not be continued
        resume = train_command(["--resume", str(self.folder), "--trust"], device)
        begin = resume
        if not self.begun:
            settings = self.sweep / "settings" / f"{self.name}.toml"
            write_text(settings, self.config.to_toml())
            begin = train_command([str(settings)], device)
        return Task(
            name=self.name,
            run=self.folder.absolute(),
            command=begin,
            resume=resume,
            log=self.log.absolute(),
            folder=(self.sweep / "tasks" / self.name).absolute(),
            directory=Path.cwd(),
            threads=threads,
            empty_log=True,
        )

    def started(self, handle: Handle) -> None:
        """Note that the process was started."""
        self.handle, self.state = handle, "running"
        write_text(self.reference, json.dumps(handle.reference))

    def earlier(self) -> dict[str, Any]:
        """The reference of the process that an earlier sweep has started, dead or alive; empty if it started none."""
        return read_json(self.reference) or {}

    def poll(self) -> bool:
        """Whether the process has ended. If so, `state` says how."""
        assert self.handle is not None
        ended = self.handle.poll()
        if ended is None:
            return False
        self.handle = None
        code = ended.code
        # exit code 0 alone does not count: the files show that the run came to its end
        record = self.record()
        if code in (0, None) and record is not None and record.finished:
            self.state = "finished"
        elif self.pruned:
            self.state = "pruned"
        elif code == STOPPED_EXIT_CODE:
            self.state = "stopped"
        else:
            self.state = "failed"
            self.message = ended.message or last_error(self.log, code)
        return True

    def stop(self, at_once: bool = False) -> None:
        """End the process after the current step, with a checkpoint. With `at_once`, kill it."""
        if self.handle is not None:
            self.handle.stop(at_once)

    def prune(self) -> None:
        """End the run because others do better. A later sweep does not continue it."""
        # written first, so that `poll` sees it when the process ends
        (self.folder / PRUNED).write_text("others did better\n", encoding="utf-8")
        self.stop()


def train_command(source: Sequence[str], device: str) -> list[str]:
    """A command that trains. Nobody is there to accept serious remarks on the data; they are in the log of the run."""
    return [sys.executable, "-m", "lorasmith", "train", *source, f'device="{device}"', "--yes"]


def make_job(
    source: Path | dict[str, Any],
    overrides: Sequence[str],
    values: Mapping[str, str],
    sweep_folder: Path,
    name: str = "",
) -> Job:
    """The run of one combination, with the state that its folder shows. `name`: of its folder, if it has one.

    Raises ConfigError if the values do not fit the config, and LorasmithError if the folder holds a run with other
    settings.
    """
    folder = sweep_folder / "runs" / (name or folder_name(values))
    changes = [*overrides, *(f"{key}={value}" for key, value in values.items())]
    # the config need not have an output, since each run has its own
    changes.append(f"output={json.dumps(folder.as_posix())}")
    config = load_config(source, changes).model_copy(update={"output": folder})
    job = Job(dict(values), config)
    if not job.begun:
        return job

    # continuing a run with other settings would give a result that belongs to neither of them
    keys = differing_keys(reopen(folder, trusted=named_code(config)), config)
    if keys:
        raise LorasmithError(
            f"{folder} holds a run with other settings ({', '.join(keys)}). Choose another --out, or remove the folder."
        )
    record = job.record()
    if record is not None and record.finished:
        job.state = "finished"
    elif job.pruned:
        job.state = "pruned"
    return job


def differing_keys(first: TrainConfig, second: TrainConfig) -> list[str]:
    """Dotted keys in which two configs differ, except those that do not change the results."""
    first_values = dotted_keys(first.model_dump(mode="json", exclude=set(NOT_COMPARED)))
    second_values = dotted_keys(second.model_dump(mode="json", exclude=set(NOT_COMPARED)))
    keys = first_values.keys() | second_values.keys()
    return sorted(key for key in keys if first_values.get(key) != second_values.get(key))


def dotted_keys(table: Any, prefix: str = "") -> dict[str, Any]:
    """A nested table as one with dotted keys."""
    if not isinstance(table, dict):
        return {prefix: table}
    values: dict[str, Any] = {}
    for key, inner in table.items():
        values.update(dotted_keys(inner, f"{prefix}.{key}".lstrip(".")))
    return values
