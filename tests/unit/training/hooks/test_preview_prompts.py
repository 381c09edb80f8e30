"""Prompts that change while training."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorasmith.training.config import load_config
from lorasmith.training.setup.build import build_run

GARP = Path(__file__).parents[4] / "src/lorasmith/assets/garp"


@pytest.fixture
def table(tmp_path: Path) -> dict:
    (tmp_path / "p.txt").write_text("garp --s 1\n")
    return {
        "base": "tiny-sd",
        "output": str(tmp_path / "run"),
        "steps": 2,
        "data": {"images": str(GARP), "resolution": 64},
        "adapter": {"kind": "lora", "rank": 2},
        "preview": {"prompts": str(tmp_path / "p.txt"), "at_start": True},
    }


def test_a_file_that_is_spoilt_later_does_not_end_the_run(table: dict, tmp_path: Path) -> None:
    run = build_run(load_config(table))
    hook = run.config.preview
    assert hook is not None
    hook.start(run)
    base = tmp_path / "run/previews/base/00.png"
    first = base.read_bytes()
    (tmp_path / "p.txt").write_text("garp --nonsense 1\n")
    hook.act(run)
    assert "preview_skipped" in (tmp_path / "run/events.jsonl").read_text()
    (tmp_path / "p.txt").write_text("a red house --s 1\n")
    hook.act(run)
    assert base.read_bytes() != first
    second = base.stat().st_mtime_ns
    hook.act(run)
    assert base.stat().st_mtime_ns == second


def test_previews_without_prompts_do_not_end_the_run(table: dict, tmp_path: Path) -> None:
    table["preview"]["prompts"] = []
    run = build_run(load_config(table))
    hook = run.config.preview
    assert hook is not None
    hook.start(run)
    hook.act(run)
    assert not (tmp_path / "run/previews").exists()
