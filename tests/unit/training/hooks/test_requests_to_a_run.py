"""Requests to a run that is under way, and the report that it keeps up to date."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lorasmith.core.errors import LorasmithError
from lorasmith.core.lock import locked
from lorasmith.training.config import load_config
from lorasmith.training.hooks import control, live_report
from lorasmith.training.output.control import send_request, take_requests
from lorasmith.training.output.events import Events
from lorasmith.training.session import train


def test_only_a_run_that_is_under_way_can_be_asked(tmp_path: Path) -> None:
    with pytest.raises(LorasmithError, match="not under way"):
        send_request(tmp_path, "stop")
    with locked(tmp_path, "output"):
        with pytest.raises(LorasmithError, match="stop, preview, export, checkpoint"):
            send_request(tmp_path, "../../stop")
        for name in ("stop", "preview", "export"):
            send_request(tmp_path, name)
    # what takes time comes before the stop
    assert take_requests(tmp_path) == ["preview", "export", "stop"]
    assert take_requests(tmp_path) == []


@pytest.fixture
def config(tmp_path: Path, random_base: Callable[..., Path], pictures: Callable[..., Path]) -> dict:
    return {
        "base": str(random_base()),
        "output": str(tmp_path / "run"),
        "steps": 6,
        "trigger": "garp",
        "data": {"images": str(pictures(2)), "resolution": 64},
        "log": {"tensorboard": False},
    }


def ask_after(monkeypatch: pytest.MonkeyPatch, asked: int, *names: str) -> None:
    """Ask the run for something after a step, as somebody else would: by files in its folder."""
    monkeypatch.setattr(control, "INTERVAL", 0.0)
    write = Events.write

    def write_and_ask(self: Events, event: str, step: int, **fields: object) -> None:
        write(self, event, step, **fields)
        if event == "step" and step == asked:
            for name in names:
                send_request(self.path.parent, name)

    monkeypatch.setattr(Events, "write", write_and_ask)


def test_a_run_stops_with_a_checkpoint_when_it_is_asked_to(config: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_after(monkeypatch, 3, "stop", "export")
    result = train(load_config(config), accept_remarks=True)
    assert (result.finished, result.steps) == (False, 3)
    assert (result.folder / "run-000003.safetensors").is_file()
    # the report is that of the stopped run, without being asked for
    assert "after 3 of 6 steps" in (result.folder / "report.html").read_text()

    # a request that came too late does not stop the run that continues
    (result.folder / "control" / "stop").touch()
    monkeypatch.undo()
    assert train(load_config(config), resume=result.folder).steps == 6


@pytest.mark.slow
def test_a_run_without_prompts_says_why_it_draws_nothing(config: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_after(monkeypatch, 2, "preview")
    result = train(load_config(config), accept_remarks=True)
    events = Events(result.folder, tensorboard=False).of("control")
    assert [(event["step"], event["request"]) for event in events] == [(2, "preview")]
    assert "no [preview]" in events[0]["refused"]


@pytest.mark.slow
def test_the_report_is_written_while_the_run_is_under_way(config: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each preview at once. It holds the data, and what is under way does not fail with it."""
    written: list[str] = []
    from lorasmith.training.output import report

    write_report = report.write_report

    def counted(folder: Path, pictures: dict | None = None, **more: bool) -> Path:
        path = write_report(folder, pictures, **more)
        written.append(path.read_text())
        return path

    monkeypatch.setattr(report, "write_report", counted)
    monkeypatch.setattr(live_report, "LARGEST_SHARE", 1e9)
    preview = {"prompts": ["garp"], "every_steps": 2, "steps": 1, "width": 64, "height": 64}
    result = train(load_config({**config, "preview": preview}), accept_remarks=True)
    assert len(written) > 1
    assert "under way" in written[0]
    assert "a photo of garp, number 1" in written[0]
    assert "Use it like this" in (result.folder / "report.html").read_text()
