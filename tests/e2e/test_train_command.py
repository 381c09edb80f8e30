"""`lorasmith train` as its user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from answers import Program, assert_clear
from safetensors import safe_open

from tests.waiting import wait_until

Config = Callable[..., Path]

PREVIEW = """
validation.split = 0.3
[preview]
prompts = ["a photo of garp", "a dog"]
steps = 2
[validation]
every_steps = 1
timesteps = [500]
"""


@pytest.mark.slow
def test_a_run_leaves_what_it_promises(here: Program, config: Config, tmp_path: Path) -> None:
    path = config()
    path.write_text(path.read_text().replace("batch_size = 2", "batch_size = 2\nvalidation.split = 0.3"))
    path.write_text(path.read_text() + PREVIEW.replace("validation.split = 0.3\n", ""))
    answer = here("train", path, "--json", "steps=4")
    assert answer.code == 0, answer.err
    run = tmp_path / "run"
    assert answer.json["finished"] is True
    assert answer.json["steps"] == 4
    assert Path(answer.json["file"]) == run / "garp.safetensors"
    for name in ("config.toml", "events.jsonl", "summary.json", "report.html", "loss.png", "checkpoints"):
        assert (run / name).exists(), name
    assert "data:image/" in (run / "report.html").read_text()
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "step"] == [1, 2, 3, 4]
    assert {e["event"] for e in events} >= {"start", "step", "validation", "preview", "export", "checkpoint", "end"}
    with safe_open(run / "garp.safetensors", "pt") as file:
        metadata = file.metadata()
        assert all(key.startswith(("lora_unet_", "lora_te_")) for key in file.keys())  # noqa: SIM118
    assert metadata["modelspec.trigger_phrase"] == "garp"
    assert "rank = 2" in metadata["lorasmith.config"]


def test_the_config_in_the_folder_runs_the_same_again(here: Program, config: Config, tmp_path: Path) -> None:
    assert here("train", config()).code == 0
    again = here("train", tmp_path / "run/config.toml", "--output", tmp_path / "again")
    assert again.code == 0, again.err
    first, second = (losses(tmp_path / name) for name in ("run", "again"))
    assert first == second


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["event"] == "step"]


def test_a_folder_with_a_run_is_never_overwritten_silently(here: Program, config: Config, tmp_path: Path) -> None:
    path = config()
    assert here("train", path).code == 0
    before = (tmp_path / "run/garp.safetensors").read_bytes()
    assert_clear(here("train", path), "already holds a run", "--resume", "--overwrite")
    assert (tmp_path / "run/garp.safetensors").read_bytes() == before
    assert here("train", path, "--overwrite").code == 0
    aside = [p for p in tmp_path.iterdir() if p.name.startswith("run.old-")]
    assert [(p / "garp.safetensors").read_bytes() for p in aside] == [before]


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(config: Config, program: Program, tmp_path: Path) -> None:
    path = config()
    command = [sys.executable, "-m", "lorasmith", "train", str(path), "steps=100000", "--json"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    events = tmp_path / "run/events.jsonl"
    try:
        wait_until(lambda: events.exists() and '"event": "step"' in events.read_text(), child=child)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=180)
    finally:
        child.kill()
    assert child.returncode == 130, err
    assert "Traceback" not in err
    assert f"lorasmith train --resume {tmp_path / 'run'}" in err
    done = json.loads(out)["steps"]
    again = program("train", "--resume", tmp_path / "run", f"steps={done + 2}", "--json")
    assert again.code == 0, again.err
    assert again.json["steps"] == done + 2
    assert again.json["finished"] is True


def test_python_and_command_line_train_the_same(here: Program, config: Config, tmp_path: Path) -> None:
    import lorasmith

    path = config()
    assert here("train", path).code == 0
    result = lorasmith.train(path, output=tmp_path / "python")
    assert result.file == tmp_path / "python/garp.safetensors"
    assert losses(tmp_path / "python") == losses(tmp_path / "run")
