"""One run of a sweep: its settings, its process, where it stands.

A run's folder is all that is remembered of it: a finished one is not run again, one that was stopped goes on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import write_text
from lorasmith.training.config import TrainConfig, load_config
from lorasmith.training.output.folder import CONFIG, reopen
from lorasmith.training.output.report.record import Record, read
from lorasmith.training.sweep.axes import Values, name

State = Literal["waiting", "running", "finished", "failed", "pruned", "stopped"]
ELSEWHERE = ("output", "device", "threads")
"""Settings that may differ between two parts of a run: they do not change what comes out."""
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "SLURM_STEP_NUM_TASKS")
"""What tells a process that it is one of several; a run of a sweep is one process."""
PRUNED = "pruned"


@dataclass
class Job:
    """A run of the sweep."""

    values: Values
    config: TrainConfig
    """With the sweep's folder as output."""
    state: State = "waiting"
    message: str = ""
    """What went wrong."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def folder(self) -> Path:
        return self.config.output

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def log(self) -> Path:
        """What the process prints."""
        return self.folder.parent.parent / "logs" / f"{self.name}.log"

    def record(self) -> Record | None:
        """What the run has written so far."""
        return read(self.folder) if (self.folder / "events.jsonl").is_file() else None

    def command(self, device: str) -> list[str]:
        """Start the run, or go on with it."""
        begun = (self.folder / CONFIG).is_file()
        settings = self.folder.parent.parent / "settings" / f"{self.name}.toml"
        if not begun:
            write_text(settings, self.config.to_toml())
        what = ["--resume", str(self.folder)] if begun else [str(settings)]
        return [sys.executable, "-m", "lorasmith", "train", *what, f'device="{device}"']

    def start(self, device: str, threads: int | None) -> None:
        """Begin in a process of its own, which Ctrl-C in the terminal does not reach; see `stop`."""
        (self.folder / PRUNED).unlink(missing_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        env = {key: value for key, value in os.environ.items() if key not in LAUNCHERS}
        if threads is not None:
            env.setdefault("OMP_NUM_THREADS", str(threads))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command(device),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=env,
                start_new_session=True,
            )
        self.state = "running"

    def poll(self) -> bool:
        """Whether the process is there no more; then the state says how it ended."""
        assert self.process is not None
        code = self.process.poll()
        if code is None:
            return False
        self.process = None
        record = self.record()
        if code == 0 and record is not None and record.finished:
            self.state = "finished"
        elif (self.folder / PRUNED).exists():
            self.state = "pruned"
        elif code == 130:
            self.state = "stopped"
        else:
            self.state, self.message = "failed", last_error(self.log, code)
        return True

    def stop(self, at_once: bool = False) -> None:
        """Let it end after the step under way, with a checkpoint; or end it now."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if at_once else signal.SIGINT)

    def prune(self) -> None:
        """End it because others do better. It is remembered, and a later sweep does not take it up again."""
        (self.folder / PRUNED).write_text("others did better\n", encoding="utf-8")
        self.stop()


def job(source: Path | dict[str, Any], overrides: Sequence[str], values: Mapping[str, str], out: Path) -> Job:
    """The run of one combination, as far as it has come. Raises ConfigError if the values do not fit the config, and
    LorasmithError if a run with other settings is in its place."""
    folder = out / "runs" / name(values)
    changes = [*overrides, *(f"{key}={value}" for key, value in values.items())]
    config = load_config(source, changes).model_copy(update={"output": folder})
    found = Job(dict(values), config)
    if (folder / CONFIG).is_file():
        differing = differences(reopen(folder), config)
        if differing:
            raise LorasmithError(
                f"{folder} holds a run with other settings ({', '.join(differing)}). Give the sweep another --out, or "
                "remove that folder."
            )
        record = found.record()
        if record is not None and record.finished:
            found.state = "finished"
        elif (folder / PRUNED).exists():
            found.state = "pruned"
    return found


def differences(first: TrainConfig, second: TrainConfig) -> list[str]:
    """Dotted keys in which two configs differ, other than those that change nothing."""
    one, other = (flat(c.model_dump(mode="json", exclude=set(ELSEWHERE))) for c in (first, second))
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested table as dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, inner in value.items() for k, v in flat(inner, f"{prefix}.{key}".lstrip(".")).items()}


def last_error(log: Path, code: int) -> str:
    """The last thing that a process said, for the one line that the table has."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    lines = [line.strip() for line in lines if line.strip()]
    starts = [i for i, line in enumerate(lines) if line.startswith("error:")]
    told = " ".join(lines[starts[-1] :] if starts else lines[-1:]).removeprefix("error:").strip()
    return told[:300] or f"exit code {code}"
