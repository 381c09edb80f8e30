"""The page of the queue shows and changes the same folder as `lorasmith queue`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
