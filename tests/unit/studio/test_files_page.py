"""The page of files makes new files beside old ones, and nothing anywhere else."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from lorasmith.core.errors import LorasmithError
from lorasmith.studio import process
from lorasmith.studio.pages import files

Open = Callable[..., TestClient]


def test_a_new_file_is_made_beside_the_old_one_by_the_commands(
    tmp_path: Path, open_studio: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run_json(arguments: list[str], seconds: float) -> dict[str, Any]:
        commands.append(arguments)
        return {}

    monkeypatch.setattr(files, "run_json", run_json)
    client = open_studio(tmp_path)
    root = tmp_path.name
    body = {
        "file": f"{root}/a.safetensors",
        "command": "resize",
        "name": "small",
        "options": {"rank": "4", "x": "y"},
    }
    made = client.post("/api/files/change", json=body).json()
    assert made["file"] == f"{root}/a-small.safetensors"
    assert commands == [
        ["resize", f"{tmp_path}/a.safetensors", "--output", f"{tmp_path}/a-small.safetensors", "--rank=4"]
    ]
    uses = [{"file": f"{root}/{name}.safetensors", "strength": 0.5} for name in "ab"]
    assert client.post("/api/files/combine", json={"files": uses, "name": "ab"}).status_code == 200
    assert commands[1][1:3] == [f"{tmp_path}/a.safetensors:0.5", f"{tmp_path}/b.safetensors:0.5"]
    for change in ({"command": "merge"}, {"name": "../x"}, {"name": ""}, {"file": f"{root}/../x"}, {"options": [1]}):
        assert client.post("/api/files/change", json={**body, **change}).status_code == 400, change
    assert client.post("/api/files/combine", json={"files": uses[:1], "name": "ab"}).status_code == 400
    assert client.get("/api/files/inspect", params={"file": "/etc/passwd"}).status_code == 400
    assert len(commands) == 2


def test_files_are_fused_merged_and_extracted_below_the_folders(
    tmp_path: Path, open_studio: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run_json(arguments: list[str], seconds: float) -> dict[str, Any]:
        commands.append(arguments)
        return {"error of": 0.1}

    monkeypatch.setattr(files, "run_json", run_json)
    root = tmp_path / "r"
    root.mkdir()
    secret = tmp_path / "secret.safetensors"
    secret.touch()
    client = open_studio(root)
    uses = [{"file": f"r/{name}.safetensors", "strength": 0.5, "name": name} for name in "ab"]
    fuse = {"files": uses, "name": "ab", "options": {"base": "tiny-sd", "rank": "8", "device": "x"}}
    made = client.post("/api/files/fuse", json=fuse).json()
    assert made == {"file": "r/ab.safetensors", "report": {"error of": 0.1}}
    assert commands[0] == [
        *("fuse", f"{root}/a.safetensors:0.5=a", f"{root}/b.safetensors:0.5=b", "--base=tiny-sd", "--rank=8"),
        *("--output", f"{root}/ab.safetensors"),
    ]
    merge = {"files": uses[:1], "name": "new", "base": "tiny-sd"}
    assert client.post("/api/files/merge", json=merge).json()["file"] == "r/new"
    extract = {"tuned": "some/model", "base": "tiny-sd", "name": "new", "options": {"rank": "4"}}
    assert client.post("/api/files/extract", json=extract).json()["file"] == "r/new.safetensors"
    assert commands[2] == ["extract", "some/model", "tiny-sd", "--rank=4", "--output", f"{root}/new.safetensors"]
    outside = str(secret)
    for route, body in (
        ("fuse", {**fuse, "options": {}}),
        ("fuse", {**fuse, "options": {"base": outside}}),
        ("fuse", {**fuse, "files": uses[:1]}),
        ("merge", {**merge, "base": outside}),
        ("merge", {**merge, "base": "--output"}),
        ("merge", {**merge, "name": "../x"}),
        ("merge", {**merge, "files": [{"file": "r/../secret.safetensors", "strength": 1}]}),
        ("extract", {**extract, "tuned": outside}),
        ("extract", {**extract, "options": [1]}),
        ("change", {"file": "r/a.safetensors", "command": "fuse", "name": "x"}),
        ("change", {"file": "r/a.safetensors", "command": "convert", "name": "x", "options": {"base": outside}}),
    ):
        assert client.post(f"/api/files/{route}", json=body).status_code == 400, (route, body)
    assert len(commands) == 3


@pytest.mark.parametrize("error", [None, 0.25])
def test_the_error_of_an_approximation_is_no_failure(error: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = json.dumps({"error": error, "layers": 3})
    monkeypatch.setattr(process, "command", lambda arguments: [sys.executable, "-c", f"print({printed!r})"])
    assert process.run_json(["resize"]) == {"error": error, "layers": 3}
    monkeypatch.setattr(process, "command", lambda arguments: [sys.executable, "-c", 'print(\'{"error": "no file"}\')'])
    with pytest.raises(LorasmithError, match="no file"):
        process.run_json(["resize"])
