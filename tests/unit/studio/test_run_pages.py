"""Runs through the routes of the studio: what is read of their folders as they are written, and what cannot be."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from lorasmith.core.lock import locked
from lorasmith.studio.run_log import RunLog

Open = Callable[..., TestClient]


def append(run: Path, *events: dict[str, Any]) -> None:
    with (run / "events.jsonl").open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


def step(number: int, loss: float | None = 0.5) -> dict[str, Any]:
    return {"event": "step", "step": number, "loss": loss, "lr": {"unet": 1e-3}, "seconds": 2.0 * number}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "garp"
    folder.mkdir(parents=True)
    append(folder, {"event": "start", "step": 0, "id": "1"}, *(step(n, 1 / n) for n in range(1, 11)))
    (folder / "summary.json").write_text(json.dumps({"name": "garp", "length": {"steps": 40}}))
    return folder


def test_a_log_is_read_on_from_where_it_was_and_anew_after_a_rewind(run: Path) -> None:
    log = RunLog(run)
    assert log.refresh()
    assert not log.refresh()
    with (run / "events.jsonl").open("a") as file:
        file.write('{"event": "step", "step": 11, "lo')
    log.refresh()
    assert log.last_step == 10  # a line that is being written
    with (run / "events.jsonl").open("a") as file:
        file.write('ss": 0.25, "kde": 0.1}\nno json\n[1]\n{"event": "step", "step": 12, "loss": null}\n')
    log.refresh()
    assert log.points("loss")[-2:] == [(10, 0.1), (11, 0.25)]  # step 12 was not finite
    assert log.points("kde") == [(11, 0.1)]  # a column that began late
    assert log.seconds_per_step == 2.0

    # a resumed run writes the file anew, and may be longer by then
    rewound = run / "new"
    lines = (run / "events.jsonl").read_text().splitlines()[:6]
    rewound.write_text("\n".join(lines) + "\n" + "".join(json.dumps(step(n, 9.0)) + "\n" for n in range(6, 30)))
    os.replace(rewound, run / "events.jsonl")
    log.refresh()
    assert [value for _, value in log.points("loss")][4:7] == [1 / 5, 9.0, 9.0]
    assert log.last_step == 29


def test_state_position_and_remaining_time(run: Path, open_studio: Open) -> None:
    client = open_studio(run.parent)

    def row() -> dict[str, Any]:
        return client.get("/api/runs/list").json()["runs"][0]

    def status() -> dict[str, Any]:
        return client.get("/api/run/show", params={"run": "runs/garp"}).json()["status"]

    assert (row()["id"], row()["state"], row()["step"], row()["steps"]) == ("runs/garp", "stopped", 10, 40)
    with locked(run, "output"):
        assert row()["state"] == "running"
        assert (status()["state"], status()["remaining"]) == ("running", 60.0)
        assert client.post("/api/run/resume", json={"run": "runs/garp"}).status_code == 400
        assert client.post("/api/run/control", json={"run": "runs/garp", "request": "stop"}).status_code == 200
        assert (run / "control" / "stop").is_file()
    assert client.post("/api/run/control", json={"run": "runs/garp", "request": "stop"}).status_code == 400
    append(run, step(40), {"event": "end", "step": 40})
    assert row()["state"] == "finished"
    # made longer afterwards
    append(run, {"event": "resume", "step": 40})
    assert row()["state"] == "stopped"
    # as many steps later as are read of the log
    append(run, *(step(n, 0.25) for n in range(41, 81)))
    assert (row()["state"], row()["step"], row()["loss"]) == ("stopped", 80, 0.25)


def test_the_best_export_is_the_one_that_the_run_names(run: Path, open_studio: Open) -> None:
    client = open_studio(run.parent)
    for number, loss in ((10, 0.3), (20, 0.1), (30, 0.2)):
        (run / f"garp-{number}.safetensors").write_bytes(b"x" * number)
        append(run, {"event": "export", "step": number, "file": f"garp-{number}.safetensors"})
        append(run, {"event": "validation", "step": number, "loss": loss})
    append(run, {"event": "export", "step": 35, "file": "deleted.safetensors"})

    def rows() -> list[tuple[int, bool, bool]]:
        exports = client.get("/api/run/show", params={"run": "runs/garp"}).json()["exports"]
        return [(row["step"], row["best"], row["lowest_validation"]) for row in exports]

    assert rows() == [(30, False, False), (20, False, True), (10, False, False)]
    (run / "garp-best.safetensors").write_bytes(b"x")
    judged = {"file": "garp-best.safetensors", "best_step": 20, "reason": "later ones are worse"}
    append(run, {"event": "best", "step": 30, **judged})
    assert rows() == [(30, False, False), (20, True, True), (20, False, True), (10, False, False)]
    assert client.get("/api/run/show", params={"run": "runs/garp"}).json()["best"]["reason"] == "later ones are worse"
    report = client.get("/api/run/report", params={"run": "runs/garp"}).text
    assert "<b>garp-best.safetensors</b>" in report
    assert "These are the best weights</span>: later ones are worse." in report


def test_events_of_a_hostile_run_open_nothing_outside(run: Path, open_studio: Open) -> None:
    secret = run.parents[1] / "secret.png"
    Image.new("L", (8, 8)).save(secret)
    (run / "link.png").symlink_to(secret)
    (run / "page.svg").write_text("<svg onload='alert(1)'/>")
    (run / "report.html").write_text("<script>alert(1)</script>")
    append(
        run,
        {"event": "preview", "step": 5, "images": ["../../secret.png"], "prompts": "<b>", "grids": None},
        {"event": "attention", "step": 5, "picture": {"a": 1}},
        {"event": "step", "step": 11, "loss": float("nan"), "grad_norm": float("inf"), "lr": [1]},
        {"event": "export", "step": "x", "file": ["y"]},
        {"event": "validation", "step": 5, "loss": "high", "by_t": 3},
    )
    client = open_studio(run.parent)
    assert client.get("/api/run/show", params={"run": "runs/garp"}).status_code == 200
    assert client.get("/api/run/curves", params={"run": "runs/garp"}).status_code == 200
    for file in ("../../secret.png", str(secret), "link.png", "page.svg", "report.html", "config.toml", "missing.png"):
        assert client.get("/api/run/picture", params={"run": "runs/garp", "file": file}).status_code == 400, file

    # the page of a report has scripts, but in an origin of its own that may load nothing
    report = client.get("/api/run/report", params={"run": "runs/garp"})
    assert "alert(1)" not in report.text
    policy = report.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts; default-src 'none'")
    assert "allow-same-origin" not in policy
