"""Who reads the config of a run: set-up, and what writes about the run. Steps and hooks read values on `Run`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TRAINING = Path(__file__).parents[2] / "src/lorasmith/training"

WRITERS = {
    "hooks/export.py",
    "hooks/mixofshow.py",
    "hooks/model_card.py",
    "output/checkpoint.py",
    "output/export.py",
    "output/kohya_metadata.py",
    "output/model_card.py",
    "output/summary.py",
}
"""These write the config, or name what it names, into files."""
READERS = {
    "config.py",
    "reproduce.py",
    "session.py",
    "output/folder.py",
    "output/export.py",
    "output/kohya_metadata.py",
}
"""Beside set-up and sweeps, which make runs from configs, these take a whole config as an argument."""

FILES = sorted(TRAINING.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(TRAINING).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_what_writes_about_a_run_reads_its_config(path: Path) -> None:
    reads = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "config" and ast.unparse(node.value).endswith("run")
    ]
    assert not reads or name_of(path) in WRITERS, f"run.config in lines {reads}; put the value on Run at set-up"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_set_up_takes_a_config(path: Path) -> None:
    if name_of(path) in READERS or name_of(path).startswith(("setup/", "sweep/")):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.arg) and node.annotation is not None:
            assert "TrainConfig" not in ast.unparse(node.annotation), f"argument {node.arg}, line {node.lineno}"


def test_the_lists_hold_no_file_that_does_not_need_it() -> None:
    for name in WRITERS:
        assert ".config" in (TRAINING / name).read_text(encoding="utf-8"), name
    for name in READERS:
        assert "TrainConfig" in (TRAINING / name).read_text(encoding="utf-8"), name
