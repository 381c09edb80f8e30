"""The page to compare: what it draws and ships is below the folders, and nothing is drawn twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from lorasmith.studio.pages import compare

Open = Callable[..., TestClient]


def test_pictures_are_drawn_once_and_only_from_files_below_the_folders(
    tmp_path: Path, open_studio: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run_json(arguments: list[str], seconds: float) -> dict[str, Any]:
        commands.append(arguments)
        if arguments[0] == "sample":
            Path(arguments[-1]).mkdir(parents=True)
        return {"files": [f"{arguments[-1]}/0.png"]}

    monkeypatch.setattr(compare, "run_json", run_json)
    root = tmp_path / "r"
    (root / "runs/a").mkdir(parents=True)
    (root / "runs/a/events.jsonl").touch()
    (root / "runs/a/a.safetensors").touch()
    client = open_studio(root)
    assert client.get("/api/compare/choices").json()["files"] == ["r/runs/a/a.safetensors"]

    body = {"base": "tiny-sd", "prompts": ["--output /x"], "file": "r/runs/a/a.safetensors", "strength": 0.5}
    drawn = [client.post("/api/compare/draw", json=body).json() for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len(commands) == 1
    assert "--prompt=--output /x" in commands[0]
    assert f"{root}/runs/a/a.safetensors:0.5" in commands[0]
    for change in ({"file": "r/../x.safetensors"}, {"strength": "1; ls"}, {"prompts": []}, {"count": "many"}):
        assert client.post("/api/compare/draw", json={**body, **change}).status_code == 400, change

    shipped = client.post("/api/compare/ship", json={"file": body["file"], "license": "--overwrite"})
    assert shipped.json() == {"file": "r/runs/a/a-ship.safetensors"}
    assert "--license=--overwrite" in commands[-1]
    assert client.post("/api/compare/ship", json={"file": body["file"], "picture": "/etc/x.png"}).status_code == 400
