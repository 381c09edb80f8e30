"""The page of sweeps: what results.json and the runs say, the reason for the best run, and the sweep that is queued."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from lorasmith.studio.pages import new_run
from lorasmith.training.queue import NewJob, Queue

Open = Callable[..., TestClient]


def make_run(sweep: Path, name: str, losses: list[float]) -> None:
    run = sweep / "runs" / name
    run.mkdir(parents=True)
    events: list[dict[str, Any]] = [{"event": "start", "step": 0}]
    events += [{"event": "step", "step": i + 1, "loss": loss, "seconds": i} for i, loss in enumerate(losses)]
    events += [{"event": "validation", "step": 1, "loss": 0.3}, {"event": "end", "step": len(losses)}]
    (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (sweep / "settings").mkdir(exist_ok=True)
    (sweep / "settings" / f"{name}.toml").write_text("")


def row(name: str, state: str, best: float | None, **more: Any) -> dict[str, Any]:
    return {"run": name, "values": {"adapter.rank": name[-1]}, "state": state, "best_loss": best, **more}


def test_the_best_run_is_shown_with_the_reason(tmp_path: Path, open_studio: Open) -> None:
    sweep = tmp_path / "s"
    for name in ("rank-4", "rank-8", "<b>"):
        make_run(sweep, name, [0.5, 0.4])
    rows = [row("rank-4", "finished", 0.2, best_step=20), row("rank-8", "finished", 0.1), row("../x", "finished", 0.0)]
    (sweep / "results.json").write_text(json.dumps({"runs": rows, "best": "rank-8", "ties": ["rank-4"]}))
    client = open_studio(tmp_path)
    root = tmp_path.name
    listed = client.get("/api/sweeps/list").json()["sweeps"]
    assert listed == [{"sweep": f"{root}/s", "runs": 2, "finished": 2, "best": "rank-8", "running": False}]
    shown = client.get("/api/sweeps/show", params={"sweep": f"{root}/s"}).json()
    assert [(each["run"], each["state"], each["values"]) for each in shown["rows"]] == [
        ("rank-8", "finished", {"adapter.rank": "8"}),
        ("rank-4", "finished", {"adapter.rank": "4"}),
        ("<b>", "finished", {}),
    ]
    assert shown["why"] == (
        "rank-8 has the lowest held-out loss of its best weights: 0.1000. The next one, rank-4, has 0.2000. These "
        "held-out images show no difference from: rank-4."
    )
    charts = client.get("/api/sweeps/curves", params={"sweep": f"{root}/s"}).json()["charts"]
    assert [(chart["title"], [line["name"] for line in chart["lines"]]) for chart in charts] == [
        ("Held-out loss", ["rank-8", "rank-4", "<b>"]),
        ("Training loss, mean", ["rank-8", "rank-4", "<b>"]),
    ]
    for name in ("/etc", f"{root}/../x", root, f"{root}/s/runs/rank-4"):
        for route in ("show", "curves", "watch"):
            assert client.get(f"/api/sweeps/{route}", params={"sweep": name}).status_code == 400, (route, name)


def test_without_held_out_images_no_run_is_called_the_best(tmp_path: Path, open_studio: Open) -> None:
    make_run(tmp_path / "s", "rank-4", [0.5])
    (tmp_path / "s/results.json").write_text(json.dumps({"runs": [row("rank-4", "finished", None)], "best": None}))
    shown = open_studio(tmp_path).get("/api/sweeps/show", params={"sweep": f"{tmp_path.name}/s"}).json()
    assert "data.validation.split" in shown["why"]
    for damaged in ("[]", '{"runs": 5}', '{"runs": [5, {"run": 5}]}', "{"):
        (tmp_path / "s/results.json").write_text(damaged)
        shown = open_studio(tmp_path).get("/api/sweeps/show", params={"sweep": f"{tmp_path.name}/s"}).json()
        assert [each["run"] for each in shown["rows"]] == ["rank-4"]


def test_a_sweep_of_the_form_waits_in_the_queue(
    tmp_path: Path, open_studio: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run_json(arguments: list[str]) -> dict[str, Any]:
        commands.append(arguments)
        return {"jobs": [{"job": "garp-sweep"}]}

    monkeypatch.setattr(new_run, "run_json", run_json)
    (tmp_path / "images").mkdir()
    lines = ['base = "tiny-sd"', f'output = "{tmp_path}/runs/garp"', "[data]", f'images = "{tmp_path}/images"']
    body = {"toml": "\n".join(lines), "over": ["adapter.rank=4,8"]}
    client = open_studio(tmp_path)
    assert client.post("/api/new_run/sweep", json=body).json() == {
        "jobs": ["garp-sweep"],
        "sweep": f"{tmp_path.name}/runs/garp-sweep",
    }
    assert f'output="{tmp_path}/runs/garp-sweep"' in commands[0]
    assert commands[0][-1] == "--over=adapter.rank=4,8"
    for over in ([], "x", ["rank"], ["output=/a,/b"], ["data.images=/etc,/"], ["plugins=x"], [5]):
        assert client.post("/api/new_run/sweep", json={**body, "over": over}).status_code == 400, over
    assert len(commands) == 1


def test_a_sweep_is_a_job_that_ends_when_all_its_runs_have(tmp_path: Path) -> None:
    config = tmp_path / "a.toml"
    config.write_text('output = "s"')
    job = Queue(tmp_path / "queue").add_all([NewJob(config, ["steps=2"], directory=tmp_path, over=["seed=1,2"])])[0]
    command = job.command("cuda:1")
    assert command[3:4] + command[5:] == [
        "sweep", "steps=2", "--out", str(tmp_path / "s"), "--over=seed=1,2", "--device=cuda:1"
    ]  # fmt: skip
    (tmp_path / "s").mkdir()
    for states, ends in ((["finished", "pruned"], True), (["finished", "failed"], False)):
        (tmp_path / "s/results.json").write_text(json.dumps({"runs": [{"state": state} for state in states]}))
        assert job.reached_end() is ends
