"""A queue is a folder: what is added is what is trained, and no kill of the runner loses a job or trains one twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from lorasmith import api
from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.core.lock import locked
from lorasmith.training.executors.local import LocalSession
from lorasmith.training.queue import Job, NewJob, Queue, Runner
from tests.waiting import wait_until

RUN = """
import json, pathlib, sys, time, signal
folder = pathlib.Path(sys.argv[1])
resumed = (folder / "config.toml").exists()
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.toml").write_text("steps = 1")
(folder / "seen.txt").open("a").write(" ".join(sys.argv[2:]) + "\\n")
def stop(*_):
    sys.exit(130)
signal.signal(signal.SIGINT, stop)
wait = folder.parent / "wait"
while wait.exists():
    time.sleep(0.02)
if (folder.parent / "fail").exists():
    print("error: no such base", file=sys.stderr)
    sys.exit(1)
(folder / "events.jsonl").write_text(json.dumps({"event": "end", "step": 1}) + "\\n")
"""
"""Stands for `lorasmith train`: it waits while there is a file `wait` beside its folder, and fails if one is `fail`."""


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Adds a job to the queue in `queue`; its command is that above, with the arguments of the real one."""
    monkeypatch.chdir(tmp_path)
    real = Job.command

    def command(job: Job, device: str) -> list[str]:
        return [sys.executable, "-c", RUN, str(job.output), *real(job, device)[4:]]

    monkeypatch.setattr(Job, "command", command)

    def added(name: str, text: str = "", **options: object) -> Job:
        config = tmp_path / f"{name}.toml"
        config.write_text(f'output = "runs/{name}"\n{text}')
        return Queue(tmp_path / "queue").add_all([NewJob(config, **options)])[0]  # type: ignore[arg-type]

    return added


def states(queue: Queue) -> dict[str, str]:
    return {job.name: job.state for job in queue.jobs()}


def steps_until(runner: Runner, condition: Callable[[], object]) -> None:
    def look() -> bool:
        runner.step()
        return bool(condition())

    wait_until(look)


def seen(tmp_path: Path, name: str) -> list[str]:
    return (tmp_path / "runs" / name / "seen.txt").read_text().splitlines()


def test_jobs_run_in_their_order_and_what_was_added_is_trained(add: Callable[..., Job], tmp_path: Path) -> None:
    queue = Queue(tmp_path / "queue")
    for name in ("a", "b", "c"):
        add(name, overrides=[f"seed={len(name)}"])
    queue.move("c", 0)
    assert list(states(queue)) == ["c", "a", "b"]
    (tmp_path / "a.toml").write_text("this is not what was added")
    order: list[str] = []
    runner = Runner(queue)
    while runner.step():
        order += [job.name for job in queue.stored_jobs() if job.state == "running" and job.name not in order]
        time.sleep(0.01)
    assert order == ["c", "a", "b"]
    assert set(states(queue).values()) == {"finished"}
    assert seen(tmp_path, "a") == [f"{queue.job('a').config} seed=1"]
    assert queue.job("a").config.read_text() == 'output = "runs/a"\n'


def test_one_job_runs_on_each_device_but_a_config_may_name_its_own(add: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/wait").touch()
    queue = Queue(tmp_path / "queue")
    add("a")
    add("b", 'device = "cpu"')
    add("c")
    runner = Runner(queue, ["cuda:0", "cuda:1"])
    runner.step()
    assert states(queue) == {"a": "running", "b": "running", "c": "waiting"}
    (tmp_path / "runs/wait").unlink()
    steps_until(runner, lambda: set(states(queue).values()) == {"finished"})
    assert seen(tmp_path, "a")[0].endswith(' device="cuda:0"')
    assert "device" not in seen(tmp_path, "b")[0]


def test_a_job_that_chooses_its_device_does_not_put_two_others_on_one() -> None:
    """The device that a job's config names is not known, so it takes the place of any; the rest stay apart."""
    session = LocalSession(["cuda:0", "cuda:1", "cuda:2"])
    assert session.free_device([""]) == "cuda:1"
    assert session.free_device(["cuda:0", ""]) == "cuda:2"
    assert session.free_device(["", "cuda:0"]) == "cuda:2"
    assert session.free_device(["cuda:2", "cuda:0"]) == "cuda:1"
    assert session.free_device(["", "", "cuda:0"]) is None
    assert LocalSession(["cuda:0", "cuda:1"] * 2).free_device(["cuda:1", "cuda:0", "cuda:1"]) == "cuda:0"


def test_a_killed_runner_leaves_its_job_running_and_the_next_one_takes_it_over(
    add: Callable[..., Job], tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/wait").touch()
    queue = Queue(tmp_path / "queue")
    add("a")
    Runner(queue).step()  # nothing of this runner is used again, as after a kill
    number = queue.job("a").status["process"]
    assert os.getpgid(number) == number != os.getpgid(0)

    later = Runner(queue)
    later.step()
    assert queue.job("a").status["process"] == number
    (tmp_path / "runs/wait").unlink()
    wait_until(lambda: queue.job("a").state == "finished")
    assert not later.step()
    assert states(queue) == {"a": "finished"}
    assert len(seen(tmp_path, "a")) == 1


def test_after_a_power_cut_the_run_is_resumed(add: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/wait").touch()
    queue = Queue(tmp_path / "queue")
    add("a", overrides=["seed=1"])
    Runner(queue).step()
    file = tmp_path / "runs/a/seen.txt"
    wait_until(lambda: file.exists() and file.read_text())  # it is there a moment before its line is
    process = psutil.Process(queue.job("a").status["process"])
    process.kill()
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    assert (states(queue), "interrupted" in queue.job("a").message) == ({"a": "waiting"}, True)

    (tmp_path / "runs/wait").unlink()
    steps_until(Runner(queue), lambda: states(queue) == {"a": "finished"})
    assert seen(tmp_path, "a")[1] == f"--resume {tmp_path / 'runs/a'} --trust"


def test_a_number_that_is_another_process_by_now_is_not_the_job(add: Callable[..., Job], tmp_path: Path) -> None:
    job = add("a")
    job.write_status(state="running", process=os.getpid(), created=1.0)
    queue = Queue(tmp_path / "queue")
    assert queue.job("a").state == "waiting"


def test_a_run_of_somebody_else_is_never_resumed(add: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a/config.toml").write_text("steps = 9")
    (tmp_path / "runs/fail").touch()
    queue = Queue(tmp_path / "queue")
    add("a")
    for _ in range(2):
        steps_until(Runner(queue), lambda: states(queue) == {"a": "failed"})
        assert queue.job("a").message == "no such base"
        queue.retry("a")
    assert not any("--resume" in line for line in seen(tmp_path, "a"))


def test_a_failed_job_does_not_hold_up_the_others_and_can_be_put_back(add: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/fail").touch()
    queue = Queue(tmp_path / "queue")
    add("a")
    runner = Runner(queue)
    steps_until(runner, lambda: states(queue) == {"a": "failed"})
    (tmp_path / "runs/fail").unlink()
    add("b")
    steps_until(runner, lambda: states(queue) == {"a": "failed", "b": "finished"})
    queue.retry("a")
    steps_until(runner, lambda: states(queue) == {"a": "finished", "b": "finished"})


def test_a_stopped_job_waits_for_the_user_but_that_of_a_stopped_runner_goes_on(
    add: Callable[..., Job], tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/wait").touch()
    queue = Queue(tmp_path / "queue")
    for name in ("a", "b"):
        add(name)
    runner = Runner(queue, ["x", "y"])
    runner.step()
    wait_until(lambda: (tmp_path / "runs/a/seen.txt").exists() and (tmp_path / "runs/b/seen.txt").exists())
    with pytest.raises(LorasmithError, match="a is running; stop it first"):
        queue.remove("a")
    queue.stop("a")
    wait_until(lambda: queue.job("a").process() is None)
    runner.stopping = True
    steps_until(runner, lambda: "running" not in states(queue).values())
    assert states(queue) == {"a": "stopped", "b": "waiting"}
    queue.remove("a")
    assert (tmp_path / "runs/a").is_dir()
    assert states(queue) == {"b": "waiting"}


def test_a_paused_queue_starts_nothing(add: Callable[..., Job], tmp_path: Path) -> None:
    queue = Queue(tmp_path / "queue")
    add("a")
    queue.set_paused(True)
    assert not Runner(queue).step()
    assert states(queue) == {"a": "waiting"}


def test_two_jobs_cannot_train_into_one_folder(add: Callable[..., Job], tmp_path: Path) -> None:
    add("a")
    with pytest.raises(LorasmithError, match="the job a trains into runs/a too"):
        add("a", "# again")
    other = tmp_path / "other.toml"
    other.write_text('output = "runs/../runs/new"\nname = "../../x"')
    job = Queue(tmp_path / "queue").add_all([NewJob(other)])[0]
    assert job.folder.parent == tmp_path / "queue"
    with pytest.raises(LorasmithError, match=r'there is no job "\.\./a"'):
        Queue(tmp_path / "queue").remove("../a")


def test_damaged_files_of_a_queue_lose_no_job(add: Callable[..., Job], tmp_path: Path) -> None:
    queue = Queue(tmp_path / "queue")
    add("a")
    add("b")
    (tmp_path / "queue/queue.json").write_text("{")
    (tmp_path / "queue/a/state.json").write_text('["?"]')
    assert states(queue) == {"a": "waiting", "b": "waiting"}


def test_a_row_or_a_folder_is_a_job_and_an_error_in_one_adds_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.toml").write_text('base = "tiny-sd"\noutput = "runs"\nsteps = 2\ndata.images = "x"\n')
    (tmp_path / "who.csv").write_text("name,trigger,data.images,adapter.rank\nmia,mia,p/mia,4\nbob,bob,p/bob,none\n")
    with pytest.raises(ConfigError, match=r"adapter\.rank"):
        api.queue_add("base.toml", rows="who.csv")
    assert not Queue(Path("queue")).exists

    (tmp_path / "who.csv").write_text("name,trigger,data.images,adapter.rank\nmia,mia,p/mia,4\nbob,bob,p/bob,8\n")
    rows = api.queue_add("base.toml", rows="who.csv")
    assert [(job.name, str(job.settings["output"])) for job in rows] == [("mia", "runs/mia"), ("bob", "runs/bob")]
    for name in ("10_ann", "joe b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    folders = api.queue_add("base.toml", folders="photos")
    settings = [api.read_config(job.config, job.settings["overrides"]) for job in folders]
    assert [(c.name, c.trigger, str(c.data.images)) for c in settings] == [
        ("ann", ("ann",), "photos/10_ann"),
        ("joe b", ("joe b",), "photos/joe b"),
    ]


@pytest.mark.slow
def test_a_killed_runner_and_a_reboot_do_not_change_the_lora(tmp_path: Path) -> None:
    """The real command: `queue run` is killed, its job goes on; then both are killed, and the LoRA is that of a run in
    one piece."""
    garp = Path(api.__file__).parents[1] / "assets/garp"
    config = (
        f'base = "tiny-sd"\nsteps = 60\ncheckpoint.every_steps = 5\nthreads = 1\ndata.images = "{garp.as_posix()}"\n'
    )
    (tmp_path / "c.toml").write_text(config + "data.resolution = 64\n")

    def lorasmith(*arguments: str, wait: bool = True) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-m", "lorasmith", *arguments], cwd=tmp_path)
        assert not wait or process.wait(120) == 0
        return process

    lorasmith("train", "c.toml", "-o", "whole/mia")
    lorasmith("queue", "add", "c.toml", "output=runs/mia")
    queue = Queue(tmp_path / "queue")
    runner = lorasmith("queue", "run", wait=False)
    wait_until(lambda: (tmp_path / "runs/mia/checkpoints").exists())
    runner.kill()
    runner.wait()
    process = psutil.Process(queue.job("mia").status["process"])
    assert process.is_running()
    with pytest.raises(LorasmithError, match="in use"), locked(tmp_path / "runs/mia", "output"):
        pass
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: queue.job("mia").state == "waiting")

    lorasmith("queue", "run")
    job = queue.job("mia")
    assert (job.state, job.message) == ("finished", "")
    made, whole = tmp_path / "runs/mia/mia.safetensors", tmp_path / "whole/mia/mia.safetensors"
    from safetensors.torch import load_file

    first, second = load_file(made), load_file(whole)
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)
