"""The playground: what it draws is of files below the folders, its process keeps the model, and it can be stopped."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.studio.drawing import Drawer
from lorasmith.studio.pages import playground
from lorasmith.studio.worker_process import Worker

Open = Callable[..., TestClient]
BODY = {"base": "tiny-sd", "prompt": "a cat", "steps": 2, "width": 64, "height": 64}

PROGRAM = """
import json, sys, time
for line in sys.stdin:
    request = json.loads(line)
    if request["method"] == "cancel":
        print(json.dumps({"error": "stopped"}), flush=True)
    elif request["parameters"]["prompt"] == "wait":
        print(json.dumps({"progress": {"note": "sampling", "done": 1, "total": 2, "files": []}}), flush=True)
    else:
        print(json.dumps({"result": {"files": [], "seconds": 1, "notes": [], **request["parameters"]}}), flush=True)
"""


@pytest.fixture
def artist(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A process that repeats what it is asked for, and waits at the prompt `wait` until it is cancelled."""
    worker = Worker(command=[sys.executable, "-c", PROGRAM])
    monkeypatch.setattr(playground, "ARTIST", worker)
    yield worker
    worker.end()


def test_only_files_below_the_folders_and_settings_of_the_page_are_drawn_with(
    tmp_path: Path, open_studio: Open, artist: Worker
) -> None:
    root = tmp_path / "r"
    root.mkdir()
    (root / "a.safetensors").touch()
    (tmp_path / "secret.safetensors").touch()
    client = open_studio(root)
    loras = [{"file": "r/a.safetensors", "strength": 0.5}]
    body = {**BODY, "prompt": "a cat <lora:a:0.3>", "loras": loras, "embeddings": ["/etc/passwd"], "vae": "/etc"}
    drawn = client.post("/api/playground/draw", json=body).json()
    assert drawn["loras"] == [[str(root / "a.safetensors"), 0.5]]
    assert drawn["settings"] == {"steps": 2, "width": 64, "height": 64}
    assert drawn["folder"] == str(root / "playground")

    wrong: list[dict[str, Any]] = [
        {"loras": [{"file": "r/../secret.safetensors"}]},
        {"loras": [{"file": "r/a.safetensors", "strength": "1"}]},
        {"loras": ["r/a.safetensors"]},
        {"prompt": "<lora:secret>"},
        {"prompt": "<lora:../secret>"},
        {"regions": [{"prompt": "<lora:secret>", "box": [0, 0, 1, 1]}]},
        {"regions": "all"},
        {"base": str(tmp_path / "secret.safetensors")},
        {"base": ""},
        {"base": "--output"},
        {"count": 1000},
        {"prompt": 5},
    ]
    for change in wrong:
        answer = client.post("/api/playground/draw", json={**BODY, **change})
        assert answer.status_code == 400, change
        assert "bug" not in answer.json()["error"]
    assert client.post("/api/playground/draw", json=[1]).status_code == 400
    other_site = {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"}
    assert client.post("/api/playground/draw", json=BODY, headers=other_site).status_code == 403


def test_a_picture_can_be_stopped_and_the_process_ended(tmp_path: Path, open_studio: Open, artist: Worker) -> None:
    client = open_studio(tmp_path)
    assert client.get("/api/playground/state").json() == {"loaded": False, "memory": None, "progress": None}
    answers: list[Any] = []
    asked = threading.Thread(
        target=lambda: answers.append(client.post("/api/playground/draw", json={**BODY, "prompt": "wait"}))
    )
    asked.start()
    while not artist.progress and asked.is_alive():
        threading.Event().wait(0.01)
    state = client.get("/api/playground/state").json()
    assert (state["loaded"], state["progress"]["done"]) == (True, 1)
    assert state["memory"]["process"] >= 0
    assert client.post("/api/playground/stop", json={}).json()["loaded"]
    asked.join(120)
    assert answers[0].json() == {"error": "stopped"}
    number = artist.number
    assert client.post("/api/playground/draw", json=BODY).status_code == 200
    assert artist.number == number
    assert not client.post("/api/playground/stop", json={"unload": True}).json()["loaded"]


def test_earlier_pictures_are_listed_with_their_settings(tmp_path: Path, open_studio: Open) -> None:
    from PIL.PngImagePlugin import PngInfo

    folder = tmp_path / "playground"
    folder.mkdir()
    info = PngInfo()
    info.add_text("parameters", "a <b>cat</b>\nSteps: 20")
    Image.new("RGB", (8, 8)).save(folder / "00000-0.png", pnginfo=info)
    (folder / "00001-0.png").write_text("no picture")
    pictures = open_studio(tmp_path).get("/api/playground/history").json()["pictures"]
    assert {each["text"] for each in pictures} == {"a <b>cat</b>\nSteps: 20", ""}


def test_the_model_stays_loaded_and_mistakes_are_errors_in_words(tmp_path: Path) -> None:
    drawer, sent = Drawer(), []
    never = threading.Event()
    region = {"prompt": "a dog", "box": [0, 0, 0.5, 1]}
    ask: dict[str, Any] = {"base": "tiny-sd", "prompt": "a cat", "folder": str(tmp_path), "loras": []}
    settings: dict[str, Any] = {"steps": 1, "width": 64, "height": 64, "regions": [region]}
    result = drawer.draw(sent.append, never, **ask, settings=settings)
    family = drawer._family
    assert [Path(file).name for file in result["files"]] == ["00000-0.png"]
    with Image.open(result["files"][0]) as picture:
        assert "a dog" in picture.info["parameters"]
    assert sent[-1]["progress"]["files"] == result["files"]
    assert json.dumps(sent)

    with pytest.raises(ConfigError, match="sampler"):
        drawer.draw(sent.append, never, **ask, settings={"sampler": "best"})
    with pytest.raises(LorasmithError, match="no such LoRA file"):
        drawer.draw(sent.append, never, **{**ask, "loras": [("x.safetensors", 1.0)]}, settings=settings)
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(LorasmithError, match="stopped"):
        drawer.draw(sent.append, cancelled, **ask, settings=settings)
    assert drawer._family is family
