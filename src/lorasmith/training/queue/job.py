"""One job of a queue: its config, its process and its state, all of which are in its folder."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from lorasmith.core.errors import LorasmithError
from lorasmith.core.lock_holder import holder_in, this_machine, this_process
from lorasmith.core.store import write_text
from lorasmith.training.executors import Ended, Handle, Task
from lorasmith.training.executors.local import find_process
from lorasmith.training.executors.shared_task import RUN_CONFIG, ended_with, has_sign_of_life, read_json, request_stop
from lorasmith.training.job_process import STOPPED_EXIT_CODE, last_error, stop_process
from lorasmith.training.output.control import STOP, send_request
from lorasmith.training.output.report.record import read

SETTINGS, STATE, LOG, TASK = "job.json", "state.json", "log.txt", "task"
CONFIG_NAMES = (".toml", ".json")
SWEEP_RESULTS = "results.json"
"""In the folder of a sweep: the state of each of its runs."""

State = Literal["waiting", "running", "finished", "failed", "stopped"]
"""`stopped`: on request, with a checkpoint; it is not continued until it is put back (`retry`)."""


@dataclass(frozen=True)
class Job:
    """A job as its folder shows it now."""

    folder: Path
    settings: Mapping[str, Any]
    """job.json: `output`, `directory` (where relative paths of the config start), `overrides`, `accept_remarks`,
    `added`, `source`, `name` and `device` of the config, and `over` of a sweep."""
    status: Mapping[str, Any] = field(default_factory=dict)
    """state.json: `state`, `device`, `began`, `message`, `stop`, `started`, `ended`; and where the process is:
    `machine`, with its `process` and `created`, or what an engine finds it by (`on`, `token` ...)."""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def state(self) -> State:
        state = self.status.get("state")
        return state if state in ("running", "finished", "failed", "stopped") else "waiting"

    @property
    def message(self) -> str:
        return str(self.status.get("message") or "")

    @property
    def device(self) -> str:
        """The device on which the job runs or ran; empty: that of its config."""
        return str(self.status.get("device") or "")

    @property
    def output(self) -> Path:
        """The folder of the run."""
        return Path(str(self.settings.get("directory") or "."), str(self.settings["output"]))

    @property
    def config(self) -> Path:
        """The copy of the config that is trained."""
        paths = [self.folder / f"config{suffix}" for suffix in CONFIG_NAMES]
        return next((path for path in paths if path.is_file()), paths[0])

    @property
    def over(self) -> list[str]:
        """What varies, if the job is a sweep: `key=value,value`. `output` is then the folder of the sweep."""
        over = self.settings.get("over")
        return [text for text in over if isinstance(text, str)] if isinstance(over, list) else []

    @property
    def log(self) -> Path:
        """What the process has printed."""
        return self.folder / LOG

    @property
    def chooses_device(self) -> bool:
        """Whether the config names a device, which the queue then leaves as it is."""
        return self.settings.get("device") not in (None, "", "auto")

    def process(self) -> psutil.Process | None:
        """The process of the job on this machine, also one that an earlier runner has started; None if it has ended."""
        if self.status.get("machine", this_machine()) != this_machine():
            return None
        return find_process(self.status.get("process"), self.status.get("created"))

    def is_alive(self, unknown_to: str = "") -> bool:
        """Whether the process of the job runs, here or elsewhere, or waits for its turn on a cluster.

        `unknown_to`: an engine that was queried for the job, and does not know it any more.
        """
        if not self.status.get("on"):
            is_elsewhere = self.status.get("machine", this_machine()) != this_machine()
            return self.process() is not None or (is_elsewhere and holder_in(self.output) is not None)
        if self.known_code() is not None:
            return False
        if has_sign_of_life(self.folder / TASK):
            return True
        # a job of a batch system goes on without its runner, and may wait for hours
        if self.status.get("job") and self.status["on"] != unknown_to:
            return True
        # any other ends with its runner, which is not this process, or it would have found it
        return holder_in(self.folder.parent) not in (None, this_process())

    def known_code(self) -> int | None:
        """The exit code that the node of a cluster has written down."""
        return ended_with(self.folder / TASK, str(self.status.get("token")))

    def command(self, device: str) -> list[str]:
        """The command that starts or continues the run."""
        is_begun = bool(self.status.get("began")) and (self.output / RUN_CONFIG).is_file()
        return self._sweep_command(device) if self.over else self._train_command(device, is_begun)

    def _train_command(self, device: str, is_begun: bool) -> list[str]:
        if is_begun:
            # the run in this folder is that of this job, so it may name its own code and place
            arguments = ["--resume", str(self.output), "--trust"]
        else:
            arguments = [str(self.config.absolute()), *self.settings.get("overrides", [])]
        if device:
            arguments.append(f'device="{device}"')
        if self.settings.get("accept_remarks"):
            arguments.append("--yes")
        return [sys.executable, "-m", "lorasmith", "train", *arguments]

    def _sweep_command(self, device: str) -> list[str]:
        """The command that starts or continues the sweep: runs that are finished are not repeated."""
        arguments = [str(self.config.absolute()), *self.settings.get("overrides", []), "--out", str(self.output)]
        arguments += [f"--over={text}" for text in self.over]
        if device:
            arguments.append(f"--device={device}")
        return [sys.executable, "-m", "lorasmith", "sweep", *arguments]

    @property
    def owns_folder(self) -> bool:
        """Whether a run in the folder is that of this job. One that was there before is somebody else's: it must be
        refused, now and whenever the job is tried again."""
        return bool(self.status.get("began")) or not (self.output / RUN_CONFIG).is_file()

    def task(self, device: str) -> Task:
        """The process that starts or continues the run."""
        resume = self._sweep_command(device) if self.over else self._train_command(device, is_begun=True)
        return Task(
            name=self.name,
            run=self.output.absolute(),
            command=self.command(device),
            resume=resume if self.owns_folder else (),
            log=self.log.absolute(),
            folder=(self.folder / TASK).absolute(),
            directory=Path(self.settings.get("directory") or ".").absolute(),
        )

    def started(self, handle: Handle, device: str) -> None:
        """Note that the process was started."""
        created = handle.reference.get("created")
        started = time.time() if created is None else created
        # where an earlier process was says nothing any more
        places = dict.fromkeys(("process", "created", "on", "token", "job"))
        state = {"state": "running", "device": device, "began": self.owns_folder, "started": started}
        self.write_status(**{**places, **state, "machine": this_machine(), **handle.reference})

    def stop(self, at_once: bool = False) -> None:
        """End the run after its current step, with a checkpoint. With `at_once`, kill it."""
        process = self.process()
        if process is not None:
            stop_process(process, self.output, at_once)
        elif self.status.get("on"):
            request_stop(self.folder / TASK, at_once)
        elif self.is_alive():
            send_request(self.output, STOP)

    def ending(self, ended: Ended) -> dict[str, str]:
        """State and message of a job whose process has ended. Its exit code is not known where an earlier runner had
        started it, or the machine was switched off."""
        code = ended.code
        # exit code 0 alone does not count: the files show that the run came to its end
        if code in (0, None) and self.reached_end():
            return {"state": "finished", "message": ""}
        request = self.status.get("stop")
        if code == STOPPED_EXIT_CODE or (request and code != 0):
            return {"state": "waiting" if request == "pause" else "stopped", "message": ""}
        if ended.message:
            return {"state": "failed", "message": ended.message}
        message = last_error(self.log, code)
        if code is None and not is_error(self.log):
            # nothing was wrong with the run: it is continued
            return {"state": "waiting", "message": "was interrupted; continues from its last checkpoint"}
        if code is not None and code < 0:
            message = f"was killed by signal {-code} ({message})"
        return {"state": "failed", "message": message}

    def reached_end(self) -> bool:
        """Whether the run of this job has come to its end, or all runs of its sweep have."""
        if self.over:
            runs = (read_json(self.output / SWEEP_RESULTS) or {}).get("runs")
            return isinstance(runs, list) and all(run.get("state") in ("finished", "pruned") for run in runs)
        try:
            return bool(self.status.get("began")) and read(self.output).finished
        except (LorasmithError, OSError):
            return False

    def settled(self) -> Job:
        """The job as it is, where no runner has noticed the end of its process."""
        if self.state != "running" or self.is_alive():
            return self
        return Job(self.folder, self.settings, {**self.status, **self.ending(Ended(self.known_code()))})

    def write_status(self, **changes: Any) -> None:
        """Replace entries of state.json."""
        write_text(self.folder / STATE, json.dumps({**read_status(self.folder), **changes}, indent=1))

    def delete(self) -> None:
        """Delete the job. The folder of the run stays."""
        shutil.rmtree(self.folder)


def read_status(folder: Path) -> dict[str, Any]:
    """state.json of a job; empty if it was never started."""
    return read_json(folder / STATE) or {}


def is_error(log: Path) -> bool:
    """Whether the last session in a log has ended with an error."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    lines = text.splitlines()[-40:]
    return any(line.startswith(("error:", "This is a bug in lorasmith")) for line in lines)
