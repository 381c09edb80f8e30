"""`lorasmith sweep --on ray` and `--on slurm`, disturbed: a node is lost, a job is told to end, a job is killed. The
LoRAs are those of runs in one piece, bit for bit.

Ray's nodes are processes of this machine, and so are SLURM's jobs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import stand_in_slurm
from answers import Program
from safetensors.torch import load_file

from lorasmith.training.output.report.record import read
from tests.waiting import wait_until

Config = Callable[..., Path]
STEPS = 60
MOST_SECONDS = 400
ON_LOCAL_SLURM = ["--on", "slurm", "--gpus-per-run", "0", "--on-option", "cluster=local"]
"""SLURM's jobs as processes of this machine, by submitit."""
needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason='SLURM IS NOT TESTED: pip install "lorasmith[slurm]"'
)


@pytest.fixture
def shared(config: Config, tmp_path: Path) -> Path:
    """A config of runs that take some seconds and save a checkpoint after each five steps."""
    path = config("threads = 1", "[checkpoint]\nevery_steps = 5\n")
    path.write_text(path.read_text().replace("steps = 3\n", f"steps = {STEPS}\n"))
    return path


def sweep_command(config: Path, out: Path, *options: str) -> list[str]:
    return ["sweep", str(config), "--over", "adapter.rank=1,2", "--out", str(out), *options]


@contextmanager
def started(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program in a process of its own."""
    with log.open("wb") as file:
        child = subprocess.Popen([sys.executable, "-m", "lorasmith", *arguments], stdout=file, stderr=file)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def is_halfway(run: Path) -> bool:
    return bool(list((run / "checkpoints").glob("step-*")))


def run_of(out: Path, rank: int) -> Path:
    return out / "runs" / f"adapter.rank-{rank}"


def processes_with(text: str, parent: psutil.Process) -> list[psutil.Process]:
    """The processes below `parent` whose command contains a text."""
    found = []
    for process in parent.children(recursive=True):
        try:
            if text in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def assert_equal_to_undisturbed(here: Program, config: Path, out: Path) -> None:
    """Train the same in one piece, and compare every tensor."""
    for rank in (1, 2):
        whole = out.with_name(f"whole-{rank}")
        done = here("train", config, f"adapter.rank={rank}", 'device="cpu"', "-o", whole)
        assert done.code == 0, done.err
        first, second = (load_file(next(run.glob("*.safetensors"))) for run in (run_of(out, rank), whole))
        assert first.keys() == second.keys()
        assert all(first[key].equal(second[key]) for key in first), f"rank {rank}"
        steps = {event["step"] for event in read(run_of(out, rank)).of("step")}
        assert steps == set(range(1, STEPS + 1))


def kill_node(node: psutil.Process) -> None:
    """End everything on a node between two instructions, as a power cut does."""
    everything = [node, *node.children(recursive=True)]
    for process in everything:
        process.suspend()
    for process in everything:
        process.kill()


@pytest.mark.slow
def test_a_run_whose_ray_node_is_lost_goes_on_from_its_checkpoint_on_another_node(
    here: Program, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason='RAY IS NOT TESTED: pip install "lorasmith[ray]"')
    from ray.cluster_utils import Cluster  # pyright: ignore[reportMissingImports]

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # by default, Ray gives way to every other process of a machine
    monkeypatch.setenv("RAY_worker_niceness", "0")
    watchful = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000}
    memory = {"object_store_memory": 80 << 20}
    head = {"num_cpus": 0, "_system_config": watchful, **memory}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    out, log = tmp_path / "ray", tmp_path / "ray.log"
    try:
        nodes = [cluster.add_node(num_cpus=1, **memory) for _ in range(2)]
        raylets = [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in nodes]
        options = ["--on", "ray", "--gpus-per-run", "0", "--on-option", f"address={cluster.address}", "--json"]
        with started(sweep_command(shared, out, *options), log) as child:
            wait_until(lambda: is_halfway(run_of(out, 1)), MOST_SECONDS, child, log)
            lost = next(raylet for raylet in raylets if processes_with(str(run_of(out, 1).name), raylet))
            kill_node(lost)
            wait_until(lambda: "continues on" in log.read_text(), MOST_SECONDS, child, log)
            assert child.wait(MOST_SECONDS) == 0, log.read_text()
        assert "[state-dump]" not in log.read_text(), "what Ray prints is shortened"
    finally:
        cluster.shutdown()
    assert read(run_of(out, 1)).of("resume"), "it went on, and did not begin again"
    assert_equal_to_undisturbed(here, shared, out)


@pytest.mark.slow
@needs_submitit
def test_a_slurm_job_that_is_preempted_is_requeued_and_a_killed_one_is_continued_by_the_same_command(
    here: Program, shared: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "slurm", tmp_path / "slurm.log"
    command = sweep_command(shared, out, *ON_LOCAL_SLURM)
    with started(command, log) as child:
        program = psutil.Process(child.pid)
        for rank in (1, 2):
            wait_until(lambda rank=rank: is_halfway(run_of(out, rank)), MOST_SECONDS, child, log)
        jobs = processes_with("submitit.core._submit", program)
        job_of = {rank: next(job for job in jobs if processes_with(f"rank-{rank}", job)) for rank in (1, 2)}
        # SLURM's signal before a time limit or a preemption reaches every process of the job
        for process in [*job_of[1].children(recursive=True), job_of[1]]:
            process.send_signal(signal.SIGUSR2)
        kill_node(job_of[2])
        assert child.wait(MOST_SECONDS) == 1, log.read_text()
    states = {run["run"]: run for run in json.loads((out / "results.json").read_text())["runs"]}
    assert states["adapter.rank-1"]["state"] == "finished", log.read_text()
    assert read(run_of(out, 1)).of("resume"), "it went on, and did not begin again"
    assert states["adapter.rank-2"]["state"] == "failed"
    assert "the SLURM job" in states["adapter.rank-2"]["message"]

    assert here(*command).code == 0
    assert_equal_to_undisturbed(here, shared, out)


@pytest.mark.slow
@needs_submitit
def test_ctrl_c_saves_the_runs_on_a_cluster_and_the_same_command_goes_on(
    here: Program, shared: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "slurm", tmp_path / "slurm.log"
    command = sweep_command(shared, out, *ON_LOCAL_SLURM)
    with started(command, log) as child:
        wait_until(lambda: is_halfway(run_of(out, 1)), MOST_SECONDS, child, log)
        child.send_signal(signal.SIGINT)
        assert child.wait(MOST_SECONDS) == 130, log.read_text()
    states = {run["run"]: run["state"] for run in json.loads((out / "results.json").read_text())["runs"]}
    assert set(states.values()) <= {"stopped", "finished"}
    assert here(*command).code == 0
    assert_equal_to_undisturbed(here, shared, out)


@pytest.mark.slow
@needs_submitit
def test_slurm_jobs_go_on_when_the_command_is_killed_and_the_same_command_finds_them(
    here: Program, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_slurm.install(tmp_path / "bin")
    (tmp_path / "jobs").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN_SLURM", str(tmp_path / "jobs"))
    out, log = tmp_path / "slurm", tmp_path / "slurm.log"
    options = ["--gpus-per-run", "0", "--on-option", "partition=small", "--on-option", "sbatch.exclude=node02"]
    command = sweep_command(shared, out, "--on", "slurm", *options)
    with started(command, log) as child:
        for rank in (1, 2):
            wait_until(lambda rank=rank: is_halfway(run_of(out, rank)), MOST_SECONDS, child, log)
        child.kill()
    again = here(*command)
    assert again.code == 0, again.err
    assert "rank 1: is under way since an earlier start" in again.err
    assert not read(run_of(out, 1)).of("resume"), "it was never stopped"
    scripts = list((tmp_path / "jobs").glob("*.sbatch"))
    assert len(scripts) == 1, "one array, submitted once"
    for line in ("--array=0-1", "--partition=small", "--exclude=node02", "--signal=USR2@120"):
        assert line in scripts[0].read_text()
    assert_equal_to_undisturbed(here, shared, out)


@pytest.mark.slow
@needs_submitit
def test_jobs_of_a_queue_run_on_a_cluster_and_are_stopped_and_continued(
    here: Program, shared: Path, tmp_path: Path
) -> None:
    queue, log = tmp_path / "queue", tmp_path / "queue.log"
    runs = {rank: tmp_path / f"run-{rank}" for rank in (1, 2)}
    for rank, run in runs.items():
        added = here("queue", "add", shared, f"adapter.rank={rank}", f'output="{run}"', "--queue", queue)
        assert added.code == 0, added.err
    command = ["queue", "run", "--queue", str(queue), *ON_LOCAL_SLURM]
    with started(command, log) as child:
        wait_until(lambda: is_halfway(runs[1]), MOST_SECONDS, child, log)
        child.send_signal(signal.SIGINT)
        assert child.wait(MOST_SECONDS) in (0, 130), log.read_text()
    again = here(*command)
    assert again.code == 0, again.err
    assert read(runs[1]).of("resume"), "it went on, and did not begin again"
    for run in runs.values():
        assert list(run.glob("*.safetensors"))
        assert {event["step"] for event in read(run).of("step")} == set(range(1, STEPS + 1))
