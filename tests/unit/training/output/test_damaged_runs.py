"""Files of a run folder that are damaged, or somebody else's: left out, or one error; nothing else is touched."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lorasmith.core.store import sha256_of
from lorasmith.training.hooks.export import Exports
from lorasmith.training.output import checkpoint
from lorasmith.training.output.events import Events
from lorasmith.training.output.folder import find_resume_point


@pytest.fixture
def intact(tmp_path: Path) -> Path:
    """A checkpoint with one tensor in each file."""
    folder = tmp_path / "checkpoints/step-00000002"
    folder.mkdir(parents=True)
    for name in checkpoint.NEEDED:
        save_file({"a": torch.ones(2)}, folder / name)
    state = {
        "state": {"step": 2, "samples": 4, "seconds": 1.5},
        "optimizer": {"dict": [["a", {"tensor": "a"}]]},
        "loss_scale": [1.0, 0.0],
        "dataset": "x",
        "files": {name: sha256_of(folder / name) for name in checkpoint.NEEDED},
    }
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def test_an_intact_checkpoint_has_no_fault(intact: Path) -> None:
    assert checkpoint.fault_of(intact) is None


@pytest.mark.parametrize(
    "change",
    [
        {"files": {}},
        {"files": {"adapter.safetensors": "0"}},
        {"files": {"../../x": "0", "adapter.safetensors": "0", "optimizer.safetensors": "0"}},
        {"files": {"a\0b": "0"}},
        {"files": []},
        {"loss_scale": [1.0]},
        {"loss_scale": ["1", 0]},
        {"loss_scale": [1.0, float("nan")]},
        {"state": {"step": 2, "samples": 4, "seconds": "long"}},
        {"state": {"step": -1, "samples": 4}},
        {"state": {"step": True, "samples": "4"}},
        {"optimizer": {}},
        {"optimizer": {"dict": 7}},
        {"optimizer": {"tensor": "gone"}},
        {"dataset": None},
    ],
)
def test_a_damaged_state_is_described(intact: Path, change: dict[str, Any]) -> None:
    state = json.loads((intact / "state.json").read_text()) | change
    (intact / "state.json").write_text(json.dumps(state))
    assert checkpoint.fault_of(intact)
    assert checkpoint.find_newest(intact.parent.parent)[0] is None


def test_every_value_of_a_state_counts(intact: Path) -> None:
    """Also those that would still be valid: a step counter, a learning rate in the optimizer."""
    path = intact / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "digest": checkpoint.digest_of(state)}))
    assert checkpoint.fault_of(intact) is None
    text = path.read_text()
    for old, new in (('"step": 2', '"step": 3'), ("1.5", "1.25"), ('"a", {', '"b", {')):
        assert old in text
        path.write_text(text.replace(old, new))
        assert "damaged" in str(checkpoint.fault_of(intact))


@pytest.mark.parametrize("text", ["[]", "null", "7", "{", "[" * 100_000, "\xff", ""])
def test_a_state_that_is_no_table_is_described(intact: Path, text: str) -> None:
    (intact / "state.json").write_text(text, encoding="latin-1")
    assert checkpoint.fault_of(intact)


def test_lines_that_are_no_events_are_left_out(tmp_path: Path) -> None:
    events = Events(tmp_path, tensorboard=False)
    events.write("export", 1, file="a")
    damaged = [
        b'{"event": "export", "step": }',
        b'{"event": "export"}',
        b'{"event": "export", "step": "2"}',
        b'[{"event": "export", "step": 2}]',
        b'{"event": "export", "step": 1e999}',
        b'{"event": "export", "step": \xff}',
        b'{"a": ' * 50_000 + b'"event": "export"}',
        b'{"x": {"event": "export"}, "event": "other", "step": 1}',
    ]
    events.path.write_bytes(events.path.read_bytes() + b"\n".join(damaged) + b"\n")
    events.write("export", 2, file="b")
    assert [event["file"] for event in events.of("export")] == ["a", "b"]
    events.rewind(1)
    lines = [json.loads(line) for line in events.path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["export", "other"]


@pytest.mark.parametrize("file", ["a\0b", "x" * 5000, "", None, 7, [1]])
def test_states_with_impossible_names_are_left_out(tmp_path: Path, file: object) -> None:
    Events(tmp_path, tensorboard=False).write("state", 1, file=file)
    path, _ = checkpoint.find_newest(tmp_path)
    assert path in (None, tmp_path)


def test_only_files_of_the_run_are_pruned(tmp_path: Path) -> None:
    """The log of a folder from somebody else may name any file as an old export."""
    run_folder, outside = tmp_path / "run", tmp_path / "thesis"
    for path in (run_folder / "old.safetensors", outside / "thesis.txt"):
        path.parent.mkdir()
        path.write_text("x")
    (run_folder / "link").symlink_to(outside)
    events = Events(run_folder, tensorboard=False)
    files = ["../thesis", str(outside), "../thesis/thesis.txt", "link/thesis.txt", ".", "..", "old.safetensors", "new"]
    for step, file in enumerate(files):
        events.write("export", step, file=file, row="step")
    run: Any = SimpleNamespace(folder=run_folder, events=events)
    Exports(keep=1).prune(run, "export", "step")
    assert (outside / "thesis.txt").read_text() == "x"
    assert not (run_folder / "old.safetensors").exists()
    assert events.path.is_file()


@pytest.mark.parametrize("run", ["x" * 5000, "a\0b", 7, [], None])
def test_a_state_with_an_impossible_run_is_one_error(tmp_path: Path, run: object) -> None:
    from lorasmith.core.errors import LorasmithError

    (tmp_path / "state.json").write_text(json.dumps({"run": run}))
    with pytest.raises(LorasmithError, match="--resume"):
        find_resume_point(tmp_path)
