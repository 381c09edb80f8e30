"""The page of the queue shows and changes the same folder as `lorasmith queue`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from lorasmith.training.queue import NewJob, Queue

Open = Callable[..., TestClient]


def test_the_queue_is_shown_and_changed(tmp_path: Path, open_studio: Open) -> None:
    queue = Queue(tmp_path / "queue")
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text(f'base = "tiny-sd"\noutput = "runs/{name}"\n[data]\n')
        queue.add_all([NewJob(tmp_path / f"{name}.toml", directory=tmp_path)])
    queue.job("b").write_status(state="failed", message="<b>no</b>")
    client = open_studio(tmp_path)

    def act(action: str, **body: object) -> int:
        return client.post("/api/queue/act", json={"action": action, **body}).status_code

    shown = client.get("/api/queue/show").json()
    assert [(job["name"], job["state"], job["message"]) for job in shown["jobs"]] == [
        ("a", "waiting", ""),
        ("b", "failed", "<b>no</b>"),
    ]
    assert act("move", job="b", place=0) == act("retry", job="b") == act("pause") == 200
    assert ([job.name for job in queue.jobs()], queue.paused, queue.job("b").state) == (["b", "a"], True, "waiting")
    assert act("stop", job="a") == act("remove", job="a") == 200
    assert [job.name for job in queue.jobs()] == ["b"]
    assert "base" in client.get("/api/queue/log", params={"job": "b"}).json()["config"]
    for action, job in (("delete", "b"), ("remove", "../queue"), ("remove", ""), ("jobs", "b")):
        assert act(action, job=job) == 400
    for extra in ({"overrides": "--queue=/tmp/x"}, {"config": "../b.toml"}, {"rows": "/etc/passwd"}):
        body = {"config": f"{tmp_path.name}/b.toml", **extra}
        assert client.post("/api/queue/add", json=body).status_code == 400
    assert client.get("/api/queue/configs").json()["configs"] == [f"{tmp_path.name}/{name}.toml" for name in "ab"]


@pytest.mark.slow
def test_rows_and_folders_that_lead_out_of_the_folders_of_the_studio_add_nothing(
    tmp_path: Path, open_studio: Open, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (tmp_path / "a.toml").write_text(f'base = "tiny-sd"\noutput = "{tmp_path / "runs"}"\n[data]\n')
    (tmp_path / "rows.csv").write_text(f"name,trigger,data.images\nmia,mia,{tmp_path}\nbob,bob,{outside}\n")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "ann").symlink_to(outside)
    client = open_studio(tmp_path)
    for variant in ({"rows": f"{tmp_path.name}/rows.csv"}, {"folders": f"{tmp_path.name}/photos"}):
        answer = client.post("/api/queue/add", json={"config": f"{tmp_path.name}/a.toml", **variant})
        assert answer.status_code == 400
        assert "data.images" in answer.json()["error"]
        assert "outside of the folders" in answer.json()["error"]
    assert not Queue(tmp_path / "queue").exists
