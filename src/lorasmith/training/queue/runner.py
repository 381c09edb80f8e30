"""Runs the jobs of a queue. The runner can be killed at any time: its jobs go on, and the next runner takes them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from lorasmith.core.lock import locked
from lorasmith.core.progress import Progress
from lorasmith.training.executors import Ended, Executor, Handle, Session
from lorasmith.training.executors.local import LocalExecutor, LocalSession
from lorasmith.training.queue.folder import Queue
from lorasmith.training.queue.job import Job

POLL_INTERVAL = 0.5
"""Seconds between two looks at the queue and the processes."""
NVIDIA_SECONDS = 20


@dataclass
class Runner:
    """The jobs of a queue on some devices, one on each at a time. A device "" is that of the job's config."""

    queue: Queue
    devices: Sequence[str] = ("",)
    wait: bool = False
    """Whether to wait for further jobs when all are done."""
    progress: Progress = field(default_factory=Progress)
    stopping: bool = False
    """Start nothing more; the jobs under way save a checkpoint and wait to be continued."""
    at_once: bool = False
    """Kill the jobs under way; they continue from their last checkpoint."""
    session: Session | None = None
    """Where the jobs run. Default: processes of this machine."""
    handles: dict[str, Handle] = field(default_factory=dict)
    """The processes of the jobs under way, as far as the session knows them."""
    elsewhere: set[str] = field(default_factory=set)
    """Jobs of which it was said that they run elsewhere."""

    def work(self) -> None:
        """Run jobs until none waits, or the queue is paused, and those under way have ended."""
        while self.step():
            time.sleep(POLL_INTERVAL)

    def step(self) -> bool:
        """Notice what has ended and start what can be started; returns whether there is more to do."""
        # nobody may remove a job that is just being started, or ask one to stop that has just ended
        with self.queue.editing():
            jobs = self.queue.stored_jobs()
            running = [job for job in jobs if job.state == "running" and not self._has_ended(job)]
            if self.stopping:
                for job in running:
                    self._stop(job)
                return bool(running)
            if not self.queue.paused:
                running += self._start_waiting(running)
            return bool(running) or self.wait

    def _start_waiting(self, running: Sequence[Job]) -> list[Job]:
        """Start a job on each free device; returns those that were started."""
        # a job that has just ended may wait again
        waiting = [job for job in self.queue.stored_jobs() if job.state == "waiting"]
        occupied = [job.device for job in running]
        starting: list[tuple[Job, str]] = []
        for job in waiting:
            device = self.place.free_device(occupied)
            if device is None:
                break
            occupied.append(device)
            starting.append((job, "" if job.chooses_device else device))
        if starting:
            self._start(starting)
        return [job for job, _ in starting]

    def _stop(self, job: Job) -> None:
        """Stop a job, once; or kill it. Where the user has stopped this job, it does not continue by itself."""
        if self.at_once or not job.status.get("stop"):
            job.write_status(stop=job.status.get("stop") or "pause")
            job.stop(self.at_once)

    @property
    def place(self) -> Session:
        if self.session is None:
            self.session = LocalSession(self.devices)
        return self.session

    def _start(self, starting: Sequence[tuple[Job, str]]) -> None:
        handles = self.place.start([job.task(device) for job, device in starting])
        for (job, device), handle in zip(starting, handles, strict=True):
            text = "continued" if job.status.get("began") else "started"
            job.started(handle, device)
            self.handles[job.name] = handle
            self.progress.say(f"{job.name}: {text}{f' on {device}' if device else ''}, {job.output}")

    def _has_ended(self, job: Job) -> bool:
        """Whether the process of a job has ended; if so, its state is written."""
        handle = self._handle_of(job)
        if handle is not None:
            ended = handle.poll()
            news = handle.news()
            if news:
                self.progress.say(f"{job.name}: {news}")
        else:
            # a process of another machine or engine is known by its files only
            ended = None if job.is_alive(unknown_to=self.place.engine) else Ended(job.known_code())
            if ended is None:
                self._tell_elsewhere(job)
        if ended is None:
            return False
        ending = job.ending(ended)
        job.write_status(**ending, ended=time.time(), process=None, on=None, job=None, stop=None)
        self.handles.pop(job.name, None)
        detail = f", {ending['message']}" if ending["message"] else ""
        self.progress.say(f"{job.name}: {ending['state']}{detail}")
        return True

    def _tell_elsewhere(self, job: Job) -> None:
        """Say once where a job runs that this runner does not reach."""
        if job.name not in self.elsewhere:
            self.elsewhere.add(job.name)
            engine = job.status.get("on")
            place = f"by --on {engine}, and is followed with that" if engine else "on another machine"
            self.progress.say(f"{job.name}: was started earlier {place}; it takes a place here until it ends")

    def _handle_of(self, job: Job) -> Handle | None:
        """The process of a job, as far as the session knows it."""
        handle = self.handles.get(job.name)
        # the job may be another one with the same name
        if handle is None or any(job.status.get(key) != value for key, value in handle.reference.items()):
            handle = self.place.find(job.status, job.task(job.device))
            if handle is not None:
                self.handles[job.name] = handle
        return handle


def run_queue(
    queue: Queue, executor: Executor | None = None, wait: bool = False, progress: Progress | None = None
) -> Runner:
    """Run a queue to its end. Ctrl-C stops the jobs with a checkpoint; they are continued by the next runner.

    `executor`: where the jobs run; default: this machine, one on each GPU of NVIDIA, else on the device of each config.
    Raises LorasmithError if another process runs the queue.
    """
    executor = executor or LocalExecutor()
    if isinstance(executor, LocalExecutor) and not executor.devices:
        executor = LocalExecutor(devices=tuple(all_gpus() or [""]))
    with locked(queue.folder, "queue"), executor.open(queue.folder, None, "auto") as session:
        runner = Runner(queue, wait=wait, progress=progress or Progress(), session=session)
        with stopped_by_signals(runner):
            runner.work()
    return runner


def all_gpus() -> list[str]:
    """The GPUs of NVIDIA, if there are several: `cuda:0`, `cuda:1` ... A runner that lives for days imports no torch.

    Empty with one GPU or none, so that each job uses what its config says.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = len([name for name in visible.split(",") if name.strip()]) if visible is not None else count_gpus()
    return [f"cuda:{i}" for i in range(count)] if count > 1 else []


def count_gpus() -> int:
    """How many GPUs nvidia-smi lists; 0 without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        done = subprocess.run(
            [program, "--list-gpus"], capture_output=True, text=True, timeout=NVIDIA_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines()) if done.returncode == 0 else 0


@contextmanager
def stopped_by_signals(runner: Runner) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop the jobs after their current step, with a checkpoint; a second signal stops them at once.
    A closed terminal (SIGHUP) is ignored: a queue goes on."""

    def handle(number: int, frame: object) -> None:
        # only a note: the runner may be writing a file just now
        runner.at_once = runner.stopping
        if not runner.stopping:
            runner.progress.say("stopping; the jobs under way save a checkpoint. Once more to stop at once")
        runner.stopping = True

    try:
        before = {name: signal.signal(getattr(signal, name), handle) for name in ("SIGINT", "SIGTERM")}
        if hasattr(signal, "SIGHUP"):
            before["SIGHUP"] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    except ValueError:  # only the main thread can set signal handlers
        yield
        return
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
