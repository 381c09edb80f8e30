"""`lorasmith sweep` as its user runs it: runs side by side, one cache, and going on."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from answers import Program, assert_clear
from PIL import Image

from lorasmith.training.output.report.record import read
from tests.waiting import wait_until

Config = Callable[..., Path]

WATCHED = """
[validation]
every_steps = 1
timesteps = [500]
[preview]
prompts = ["a photo of garp", "a dog"]
steps = 1
width = 64
height = 64
[checkpoint]
every_steps = 1
"""


@pytest.fixture
def shared(config: Config, tmp_path: Path) -> Path:
    """A config with a cache of its own, held-out images and previews."""
    path = config(tables=WATCHED)
    data = f'[data]\ncache_dir = "{tmp_path / "cache"}"\nvalidation.split = 0.25\n'
    path.write_text(path.read_text().replace("[data]\n", data))
    return path


@pytest.mark.slow
def test_four_runs_share_one_cache_and_are_made_once(here: Program, shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    command = ("sweep", shared, "--over", "adapter.rank=1,2", "--over", "optimizer.lr=1e-3,1e-2", "--out", out)
    done = here(*command, "--jobs", 2, "--json", "--device", "cpu")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer["finished"]
    assert answer["cache"]["latents"] == {"found": 12, "made": 4}, "the first run encodes, three read"
    assert "latents: 12 of 16 found (75 %), 4 made" in done.err

    runs = answer["runs"]
    assert [r["values"]["adapter.rank"] for r in runs] == ["1", "1", "2", "2"]
    for run in runs:
        folder = out / "runs" / run["run"]
        record = read(folder)
        assert record.points("validation", "loss")[-1][1] == run["validation_loss"]
        assert record.last_loss() == run["loss"]
        assert Path(run["file"]).is_file()
        assert f"rank = {run['values']['adapter.rank']}" in (folder / "config.toml").read_text()
    assert answer["best"] == min(runs, key=lambda r: r["best_loss"])["run"]
    assert all(run["best_loss"] <= run["validation_loss"] for run in runs)

    with (out / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(row["adapter.rank"], row["optimizer.lr"]) for row in table] == [
        ("1", "1e-3"),
        ("1", "1e-2"),
        ("2", "1e-3"),
        ("2", "1e-2"),
    ]
    with Image.open(out / "comparison.png") as sheet:
        assert sheet.height > 5 * 64, "base and four runs, one row each"
        assert sheet.width > 2 * 64

    before = {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*") if p.is_file()}
    wider = here("sweep", shared, "--over", "adapter.rank=1,2", "--over", "optimizer.lr=1e-3", "--out", out)
    assert wider.code == 0, wider.err
    assert {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*") if p.is_file()} == before
    assert_clear(here("sweep", shared, "steps=5", *command[2:]), "other settings", "steps", "--out")


@pytest.mark.slow
def test_a_run_that_fails_does_not_stop_the_others(here: Program, shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    done = here("sweep", shared, "steps=1", "--over", f"data.images={tmp_path / 'images'},nowhere", "-o", out, "--json")
    assert done.code == 1
    states = {r["values"]["data.images"]: r for r in json.loads(done.out)["runs"]}
    assert states[str(tmp_path / "images")]["state"] == "finished"
    assert states["nowhere"]["state"] == "failed"
    assert "nowhere" in states["nowhere"]["message"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("--over", "adapter.rank=4,8,16")),
        (("--over", "adapter.rnak=4,8"), ("rnak", "rank")),
        (("--over", "adapter.rank=4,x"), ("adapter.rank", '"x"')),
        (("--over", "adapter.rank=4..8"), ("--search",)),
    ],
)
def test_mistakes_are_told_before_any_run(
    here: Program, shared: Path, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_clear(here("sweep", shared, *arguments, "--out", tmp_path / "sweep"), *words)
    assert not (tmp_path / "sweep").exists()


def test_search_without_optuna_says_what_to_install(
    here: Program, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    done = here("sweep", shared, "--over", "adapter.rank=1..4", "--search", 3, "--out", tmp_path / "sweep")
    assert_clear(done, 'pip install "lorasmith[search]"')


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(here: Program, shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    arguments = ["sweep", str(shared), "steps=30", "--over", "adapter.rank=1,2", "--out", str(out)]
    child = subprocess.Popen([sys.executable, "-m", "lorasmith", *arguments], env=dict(os.environ))
    checkpoints = out / "runs" / "adapter.rank-1" / "checkpoints"
    try:
        wait_until(lambda: list(checkpoints.glob("step-*")), child=child)
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 130
    finally:
        child.kill()
    states = {r["run"]: r["state"] for r in json.loads((out / "results.json").read_text())["runs"]}
    assert states == {"adapter.rank-1": "stopped", "adapter.rank-2": "waiting"}
    assert here(*arguments).code == 0
    record = read(out / "runs" / "adapter.rank-1")
    assert [e["step"] for e in record.of("step")] == list(range(1, 31))
    assert record.of("resume"), "it went on, and did not begin again"


@pytest.mark.slow
def test_search_proposes_prunes_and_goes_on(here: Program, shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    out = tmp_path / "sweep"
    keys = ["--over", "optimizer.lr=1e-4..1e-1", "--over", "adapter.rank=1..4"]
    first = here("sweep", shared, "steps=6", *keys, "--search", 3, "--out", out, "--json")
    assert first.code == 0, first.err
    runs = json.loads(first.out)["runs"]
    assert len(runs) == 3
    for run in runs:
        assert 1e-4 <= float(run["values"]["optimizer.lr"]) <= 1e-1
        assert run["values"]["adapter.rank"] in "1234"
    more = here("sweep", shared, "steps=6", *keys, "--search", 5, "--out", out, "--json")
    assert more.code == 0, more.err
    again = json.loads(more.out)["runs"]
    assert [r["run"] for r in again[:3]] == [r["run"] for r in runs], "what was proposed before comes first"
    assert [r["validation_loss"] for r in again[:3]] == [r["validation_loss"] for r in runs]
    assert len(again) == 5
    assert {r["state"] for r in again} <= {"finished", "pruned"}
