"""Where runs are: what a node does with a task, what its starter sees of it, and what people read when it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest

from lorasmith.core.errors import LorasmithError
from lorasmith.core.lock import locked
from lorasmith.core.registry import registered
from lorasmith.training.executors import Ended, Executor, Session, Task, make_executor, remote
from lorasmith.training.executors import tied as tied_module
from lorasmith.training.executors.remote import EngineJob, RemoteExecutor, RemoteHandle, RemoteSession, prepare
from lorasmith.training.executors.shared_task import (
    ENDED,
    STARTED,
    InterruptedRunError,
    NotSharedError,
    SharedTask,
    request_stop,
)
from lorasmith.training.queue import NewJob, Queue, Runner
from lorasmith.training.queue.job import Job
from tests.waiting import wait_until

WAIT_FOR_SIGINT = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""


def task_of(folder: Path, *command: str, resume: Sequence[str] = ()) -> Task:
    return Task("a", folder / "run", command, resume, folder / "log.txt", folder / "task", folder)


def ready(folder: Path, *command: str, resume: Sequence[str] = ()) -> SharedTask:
    task = task_of(folder, *command, resume=resume)
    return SharedTask(str(task.folder), prepare(task))


def python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", program, *arguments]


def test_a_node_runs_the_command_and_writes_down_its_exit_code(tmp_path: Path) -> None:
    shared = ready(tmp_path, *python("print('seen'); raise SystemExit(3)"))
    assert shared() == 3
    assert (tmp_path / "log.txt").read_text() == "seen\n"
    assert json.loads((tmp_path / "task" / ENDED).read_text())["code"] == 3
    # called again, as engines do when they have lost the answer
    assert shared() == 3
    assert (tmp_path / "log.txt").read_text() == "seen\n"


def test_a_folder_that_the_node_does_not_share_is_named(tmp_path: Path) -> None:
    shared = ready(tmp_path, *python("pass"))
    for folder, token in ((str(tmp_path / "elsewhere"), shared.token), (shared.folder, "another")):
        with pytest.raises(NotSharedError, match=rf"{folder} is not the same folder on .*; all nodes must share"):
            SharedTask(folder, token)()


def test_a_second_attempt_continues_only_a_run_of_the_task(tmp_path: Path) -> None:
    begin, resume = python("print('begun')"), python("print('resumed')")
    (tmp_path / "run").mkdir()
    assert ready(tmp_path, *begin, resume=resume)() == 0
    (tmp_path / "run/config.toml").touch()
    assert ready(tmp_path, *begin, resume=resume)() == 0
    assert ready(tmp_path, *begin)() == 0
    assert (tmp_path / "log.txt").read_text().split() == ["begun", "resumed", "begun"]


def test_a_run_is_stopped_after_its_step_and_killed_at_once(tmp_path: Path) -> None:
    codes = []
    for at_once in (False, True):
        mark = tmp_path / f"mark-{at_once}"
        shared = ready(tmp_path, *python(WAIT_FOR_SIGINT, str(mark)))
        thread = threading.Thread(target=lambda shared=shared: codes.append(shared()))
        thread.start()
        wait_until(mark.exists)
        request_stop(Path(shared.folder), at_once)
        thread.join(120)
    assert codes == [130, -signal.SIGKILL]


def test_a_run_that_somebody_else_has_stopped_has_not_ended(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError, match="it has saved a checkpoint"):
        ready(tmp_path, *python("raise SystemExit(130)"))()
    assert not (tmp_path / "task" / ENDED).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end a process with the one that started it")
def test_a_run_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    wait = f"""
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(tmp_path / "saved")!r}).touch(), sys.exit(130)))
pathlib.Path({str(mark)!r}).touch()
time.sleep(60)
"""
    parent = f"""
import os, subprocess, sys
subprocess.Popen([sys.executable, {tied_module.__file__!r}, str(os.getpid()), sys.executable, "-c", {wait!r}]).wait()
"""
    with subprocess.Popen([sys.executable, "-c", parent]) as process:
        wait_until(mark.exists)
        child = psutil.Process(process.pid).children()[0]
        os.kill(process.pid, signal.SIGKILL)
    wait_until((tmp_path / "saved").exists)
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.skipif(sys.platform != "linux", reason="engines run on Linux")
def test_a_run_can_be_stopped_although_its_engine_blocks_and_ignores_ctrl_c(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    parent = f"""
import os, pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
tied = [sys.executable, {tied_module.__file__!r}, str(os.getpid())]
child = subprocess.Popen([*tied, sys.executable, "-c", {WAIT_FOR_SIGINT!r}, {str(mark)!r}])
while not pathlib.Path({str(mark)!r}).exists():
    time.sleep(0.01)
child.send_signal(signal.SIGINT)
sys.exit(child.wait(20))
"""
    assert subprocess.run([sys.executable, "-c", parent], timeout=60).returncode == 130


class FakeJob:
    """A job whose engine says what the test wants."""

    def __init__(self) -> None:
        self.reference: dict[str, Any] = {}
        self.ended: Ended | None = None
        self.cancelled = 0

    def poll(self) -> Ended | None:
        return self.ended

    def cancel(self, at_once: bool) -> None:
        self.cancelled += 1
        self.ended = Ended(None, "cancelled")

    def waits_for(self) -> str:
        return "a free GPU"


def test_a_task_that_waits_for_its_turn_is_cancelled_and_counts_as_stopped(tmp_path: Path) -> None:
    task = task_of(tmp_path, *python("pass"))
    job = FakeJob()
    handle = RemoteHandle(task.folder, prepare(task), job, "fake")
    assert handle.poll() is None
    # another program asks for it, such as `lorasmith queue stop`
    request_stop(task.folder)
    assert handle.poll() == Ended(130)
    assert job.cancelled


def test_what_the_engine_says_of_a_lost_task_is_told(tmp_path: Path) -> None:
    task = task_of(tmp_path, *python("pass"))
    job = FakeJob()
    handle = RemoteHandle(task.folder, prepare(task), job, "fake")
    job.ended = Ended(None, "the node was lost four times")
    assert handle.poll() == Ended(None, "the node was lost four times")


def test_what_a_task_waits_for_and_its_node_are_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(tmp_path, *python("pass"))
    token = prepare(task)
    handle = RemoteHandle(task.folder, token, FakeJob(), "fake")
    assert handle.news() == ""
    monkeypatch.setattr(remote, "SECONDS_UNTIL_REPORT", 0.0)
    assert [handle.news(), handle.news()] == ["waits for a free GPU", ""]
    for attempt, text in ((1, "runs on gpu03"), (2, "continues on gpu03, attempt 2")):
        started = {"host": "gpu03", "attempt": attempt, "token": token}
        (task.folder / STARTED).write_text(json.dumps(started))
        assert [handle.news(), handle.news()] == [text, ""]


class ThreadJob:
    """A task in a thread of this process, in place of one on another machine."""

    def __init__(self, task: SharedTask) -> None:
        self.reference: dict[str, Any] = {}
        self.codes: list[int] = []
        self.thread = threading.Thread(target=lambda: self.codes.append(task()))
        self.thread.start()

    def poll(self) -> Ended | None:
        return Ended(self.codes[0]) if self.codes else None

    def cancel(self, at_once: bool) -> None:
        pass

    def waits_for(self) -> str:
        return ""


class ThreadSession(RemoteSession):
    engine, cpus = "threads", 1

    def free_device(self, occupied: Sequence[str]) -> str | None:
        return "cpu" if len(occupied) < 2 else None

    def submit(self, tasks: Sequence[SharedTask], names: Sequence[str]) -> list[EngineJob]:
        return [ThreadJob(task) for task in tasks]

    def find_job(self, reference: Mapping[str, Any]) -> EngineJob | None:
        return None


@pytest.fixture
def engine() -> Iterator[type[Executor]]:
    """An engine as somebody else would add it."""
    registered(Executor)

    class Threads(RemoteExecutor):
        kind: Literal["threads"] = "threads"

        @contextmanager
        def open(self, folder: Path, jobs: int | None, device: str) -> Iterator[Session]:
            yield ThreadSession()

    yield Threads
    del Executor._kinds["threads"]


def test_another_engine_is_one_class_and_a_queue_runs_on_it(
    engine: type[Executor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True)
(folder / "config.toml").write_text("steps = 1")
(folder / "events.jsonl").write_text(json.dumps({"event": "end", "step": 1}) + "\\n")
"""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Job, "command", lambda job, device: python(program, str(job.output)))
    queue = Queue(tmp_path / "queue")
    for name in ("a", "b", "c"):
        config = tmp_path / f"{name}.toml"
        config.write_text(f'output = "runs/{name}"\n')
        queue.add_all([NewJob(config)])
    with make_executor("threads").open(queue.folder, None, "auto") as session:
        runner = Runner(queue, session=session)
        runner.step()
        assert [job.state for job in queue.jobs()] == ["running", "running", "waiting"]
        wait_until(lambda: not runner.step())
    assert {job.state for job in queue.jobs()} == {"finished"}


def test_a_job_of_an_engine_whose_runner_is_gone_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text('output = "runs/a"\n')
    queue = Queue(tmp_path / "queue")
    job = queue.add_all([NewJob(tmp_path / "a.toml")])[0]
    job.write_status(state="running", on="ray", token="x")
    assert queue.job("a").state == "waiting"
    # a job of a batch system goes on, and waits there
    job.write_status(job="4711")
    assert queue.job("a").state == "running"


@pytest.mark.parametrize("reference", [{}, {"job": "4711"}])
def test_a_runner_settles_the_job_of_a_killed_runner_that_its_engine_no_longer_knows(
    reference: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a job of a batch system that was cancelled, and while this runner holds the lock of the queue itself."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text('output = "runs/a"\n')
    queue = Queue(tmp_path / "queue")
    job = queue.add_all([NewJob(tmp_path / "a.toml")])[0]
    job.write_status(state="running", on="threads", token="x", **reference)
    queue.set_paused(True)
    with locked(queue.folder, "queue"):
        assert not Runner(queue, session=ThreadSession()).step()
    assert queue.job("a").state == "waiting"


@pytest.mark.parametrize(
    ("on", "options", "resources", "words"),
    [
        ("rai", (), {}, 'there is no engine "rai"; did you mean "ray"'),
        ("ray", ("retrys=3",), {}, 'retrys: unknown key\n.*did you mean "retries"'),
        ("local", (), {"gpus_per_run": 1.0}, "--gpus-per-run is for engines that place runs"),
        ("slurm", ("partition=gpu",), {"gpus_per_run": 2.0}, "gpus_per_run"),
    ],
)
def test_wrong_options_of_an_engine_are_told(
    on: str, options: Sequence[str], resources: dict[str, float], words: str
) -> None:
    with pytest.raises(LorasmithError, match=words):
        make_executor(on, options, **resources)  # pyright: ignore[reportArgumentType]


def test_devices_are_those_of_this_machine() -> None:
    with pytest.raises(LorasmithError, match="--device names devices of this machine, and --on ray places the runs"):
        make_executor("ray", devices=["cuda:0"])


@pytest.mark.parametrize(("on", "package", "extra"), [("ray", "ray", "ray"), ("slurm", "submitit", "slurm")])
def test_an_engine_that_is_not_installed_says_what_to_install(
    on: str, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with (
        pytest.raises(LorasmithError, match=rf'pip install "lorasmith\[{extra}\]"'),
        make_executor(on).open(tmp_path, None, "cpu"),
    ):
        pass


def test_slurm_without_sbatch_says_where_to_start_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", object())  # type: ignore[arg-type]
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(LorasmithError, match="no sbatch on this machine"),
        make_executor("slurm").open(tmp_path, None, "cpu"),
    ):
        pass
