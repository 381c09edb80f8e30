"""The folder of a queue: `queue.json` with the order of the jobs and whether they wait, and a folder for each job."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lorasmith.core.config import override, read_table
from lorasmith.core.errors import LorasmithError
from lorasmith.core.lock import find_holder
from lorasmith.core.store import atomic_folder, raise_write_error, write_text
from lorasmith.training.executors.shared_task import read_json
from lorasmith.training.queue.job import SETTINGS, Job, read_status

QUEUE = "queue.json"
EDIT_LOCK = ".edit.lock"
PATIENCE = 20.0
"""Seconds to wait for another program that changes the queue, which takes it milliseconds."""
NOT_IN_NAMES = re.compile(r"[^\w.+ -]+")
LONGEST_NAME = 80


@dataclass(frozen=True)
class NewJob:
    """A job to add."""

    config: Path
    overrides: Sequence[str] = ()
    accept_remarks: bool = False
    """Train although there are serious remarks on the data."""
    directory: Path = Path()
    """Where relative paths of the config start."""
    over: Sequence[str] = ()
    """What varies, if the job is a sweep: `key=value,value`."""


class Queue:
    """A queue in a folder, which is made with the first job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def exists(self) -> bool:
        return (self.folder / QUEUE).is_file()

    @property
    def paused(self) -> bool:
        """Whether no further job is to be started."""
        return bool((read_json(self.folder / QUEUE) or {}).get("paused"))

    @property
    def runner(self) -> int | None:
        """The number of the process that runs the queue; None if none does."""
        return find_holder(self.folder)

    def jobs(self) -> list[Job]:
        """All jobs in their order, each as its files and its process are now."""
        return [job.settled() for job in self.stored_jobs()]

    def stored_jobs(self) -> list[Job]:
        """All jobs in their order, as a runner has last written them."""
        found: dict[str, Job] = {}
        paths = sorted(self.folder.glob(f"*/{SETTINGS}")) if self.folder.is_dir() else []
        for path in paths:
            settings = read_json(path)
            # hidden folders are those that are just being written
            if settings and isinstance(settings.get("output"), str) and not path.parent.name.startswith("."):
                found[path.parent.name] = Job(path.parent, settings, read_status(path.parent))
        order = {name: place for place, name in enumerate(self._order())}
        # a job that was added by a program that was killed before it wrote the order comes last
        return sorted(found.values(), key=lambda job: (order.get(job.name, len(order)), job.settings.get("added") or 0))

    def job(self, name: str) -> Job:
        """A job by its name. Raises LorasmithError if there is none."""
        jobs = {job.name: job for job in self.jobs()}
        if name not in jobs:
            known = ", ".join(jobs) or "none; add one with: lorasmith queue add CONFIG.toml"
            raise LorasmithError(f'{self.folder}: there is no job "{name}"; its jobs: {known}')
        return jobs[name]

    def add_all(self, new: Sequence[NewJob]) -> list[Job]:
        """Add jobs at the end, all or none. Configs are copied, so that what was added is what is trained.

        Raises LorasmithError if a config has no output, or another job that is not done has the same.
        """
        settings = [settings_of(each) for each in new]
        with self.editing():
            jobs = self.jobs()
            places = {job.output.resolve(): job.name for job in jobs if job.state != "finished"}
            for each in settings:
                place = Path(each["directory"], each["output"]).resolve()
                if place in places:
                    raise LorasmithError(
                        f"output: the job {places[place]} trains into {each['output']} too; each job needs a folder of "
                        "its own"
                    )
                places[place] = str(each["name"] or place.name)
            added = [self._add(job, each) for job, each in zip(new, settings, strict=True)]
            self._write(order=[job.name for job in [*jobs, *added]])
        return added

    def _add(self, new: NewJob, settings: dict[str, Any]) -> Job:
        name = self._free_name(str(settings["name"] or Path(settings["output"]).name))
        suffix = ".json" if new.config.suffix.lower() == ".json" else ".toml"
        with atomic_folder(self.folder / name) as folder:
            (folder / f"config{suffix}").write_bytes(new.config.read_bytes())
            (folder / SETTINGS).write_text(json.dumps(settings, indent=1), encoding="utf-8")
        return Job(self.folder / name, settings)

    def move(self, name: str, place: int) -> None:
        """Give a job a place in the order, counted from 0."""
        with self.editing():
            moved = self.job(name)
            order = [job.name for job in self.stored_jobs() if job.name != moved.name]
            order.insert(max(0, place), moved.name)
            self._write(order=order)

    def remove(self, name: str) -> None:
        """Delete a job. The folder of its run stays. Raises LorasmithError while it runs."""
        with self.editing():
            job = self.job(name)
            if job.state == "running":
                raise LorasmithError(f"{name} is running; stop it first: lorasmith queue stop {name}")
            job.delete()
            self._write(order=[each for each in self._order() if each != name])

    def stop(self, name: str) -> None:
        """Stop a job after its current step, with a checkpoint, and do not continue it until it is put back."""
        with self.editing():
            job = self.job(name)
            if job.state not in ("running", "waiting"):
                raise LorasmithError(f"{name} is {job.state}; only a job that runs or waits can be stopped")
            if job.state == "waiting":
                job.write_status(state="stopped", message="")
            else:
                job.write_status(stop="request")
                job.stop()

    def retry(self, name: str) -> None:
        """Put a job that has failed or was stopped back; its run continues from its last checkpoint."""
        with self.editing():
            job = self.job(name)
            if job.state not in ("failed", "stopped"):
                raise LorasmithError(
                    f"{name} is {job.state}; only a job that has failed or was stopped can be put back"
                )
            job.write_status(state="waiting", message="", stop=None)

    def set_paused(self, paused: bool) -> None:
        """Start no further job, or go on. Jobs that run are not touched."""
        with self.editing():
            self._write(paused=paused)

    @contextmanager
    def editing(self) -> Iterator[None]:
        """Inside the block no other program changes the queue."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / EDIT_LOCK, timeout=PATIENCE):
                yield
        except Timeout:
            raise LorasmithError(f"{self.folder}: another program is changing the queue; try again") from None
        except OSError as error:
            raise_write_error(error, self.folder)
            raise

    def _order(self) -> list[str]:
        names = (read_json(self.folder / QUEUE) or {}).get("order")
        return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []

    def _write(self, **changes: Any) -> None:
        contents = {"paused": False, "order": [], **(read_json(self.folder / QUEUE) or {}), **changes}
        write_text(self.folder / QUEUE, json.dumps(contents, indent=1))

    def _free_name(self, wanted: str) -> str:
        """A name for the folder of a job, with a number if there is such a job already."""
        name = NOT_IN_NAMES.sub("-", wanted).strip(" .-")[:LONGEST_NAME] or "job"
        candidate, number = name, 2
        while (self.folder / candidate).exists():
            candidate, number = f"{name}-{number}", number + 1
        return candidate


def settings_of(new: NewJob) -> dict[str, Any]:
    """job.json of a new job. Raises LorasmithError if its config has no output."""
    table = override(read_table(new.config), list(new.overrides))
    output = table.get("output")
    if not isinstance(output, str) or not output:
        raise LorasmithError(f"{new.config}: has no output; each job needs the folder of its run")
    return {
        "source": str(new.config.absolute()),
        "name": table.get("name"),
        "output": output,
        "directory": str(new.directory.absolute()),
        "overrides": list(new.overrides),
        "accept_remarks": new.accept_remarks,
        "device": table.get("device"),
        "over": list(new.over),
        "added": time.time(),
    }
