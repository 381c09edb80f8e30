"""Exports to the hub and numbers to Weights & Biases, with a hub and a tracker of our own in their place."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Lines
from lorasmith.training.config import load_config
from lorasmith.training.hooks.validate import Validation
from lorasmith.training.session import train

TOKEN = "hf_very_secret"


def table(images: Path, output: Path, *hooks: dict[str, Any], **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "base": "tiny-sd",
        "output": str(output),
        "name": "a",
        "steps": 3,
        "data": {"images": str(images), "resolution": 64},
        "adapter": {"rank": 2, "layers": ["*.attn1.to_k"]},
        "log": {"tensorboard": False},
        "export": {"every_steps": 1},
        "hooks": list(hooks),
    }
    return settings | changes


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


class FakeApi:
    """What is uploaded, in order; `broken` names fail, `gate` holds all until it is set."""

    made: list[dict[str, Any]]
    sent: dict[str, bytes | list[str]]
    tokens: list[str | None]
    broken: str = ""
    gate: threading.Event | None = None

    def __init__(self, token: str | None = None) -> None:
        self.token = token
        self.tokens.append(token)

    def create_repo(self, repo_id: str, **more: Any) -> None:
        self.made.append({"repo_id": repo_id, **more})
        if self.broken == "all":
            raise OSError("offline")

    def upload_file(self, *, path_or_fileobj: Path, path_in_repo: str, repo_id: str, repo_type: str) -> None:
        if self.gate is not None:
            assert self.gate.wait(30)
        if self.broken and (self.broken == "all" or self.broken in path_in_repo):
            raise OSError(f"401 for {self.token}\nat once")
        self.sent[f"{repo_id}/{repo_type}/{path_in_repo}"] = Path(path_or_fileobj).read_bytes()

    def upload_folder(self, *, folder_path: Path, path_in_repo: str, repo_id: str, repo_type: str) -> None:
        self.sent[f"{repo_id}/{repo_type}/{path_in_repo}"] = sorted(path.name for path in folder_path.iterdir())


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeApi]:
    class Api(FakeApi):
        made, sent, tokens = [], {}, []

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return Api


UPLOAD = {"kind": "upload", "repo": "me/garp", "path": "loras"}


def test_each_export_is_uploaded_when_it_is_made(
    pictures: Callable[..., Path], tmp_path: Path, hub: type[FakeApi]
) -> None:
    run = tmp_path / "run"
    state = {"kind": "state", "every_steps": 2}
    train(load_config(table(pictures(3), run, state, {**UPLOAD, "repo_type": "dataset", "states": True})))
    assert hub.tokens == [TOKEN]
    assert hub.made == [{"repo_id": "me/garp", "repo_type": "dataset", "private": True, "exist_ok": True}]
    place = "me/garp/dataset/loras"
    names = ["a-000001.safetensors", "a-000002.safetensors", "a-000002-state", "a.safetensors", "a-state"]
    assert list(hub.sent) == [f"{place}/{name}" for name in names]
    assert hub.sent[f"{place}/a-000001.safetensors"] == (run / "a-000001.safetensors").read_bytes()
    assert "adapter.safetensors" in hub.sent[f"{place}/a-state"]
    assert [(e["step"], e["file"]) for e in events(run, "upload")] == list(zip([1, 2, 2, 3, 3], names, strict=True))
    written = "".join(p.read_text() for p in run.rglob("*") if p.suffix in (".toml", ".jsonl", ".json", ".html"))
    assert TOKEN not in written
    assert TOKEN.encode() not in b"".join(value for value in hub.sent.values() if isinstance(value, bytes))


def test_the_model_card_is_uploaded_with_its_pictures(
    pictures: Callable[..., Path], tmp_path: Path, hub: type[FakeApi]
) -> None:
    preview = {"prompts": ["a dog"], "steps": 1, "compare_base": False}
    config = table(pictures(3), tmp_path / "run", {"kind": "model_card"}, UPLOAD, steps=1, preview=preview)
    train(load_config(config))
    names = ["a.safetensors", "image_0.png", "README.md"]
    assert list(hub.sent) == [f"me/garp/model/loras/{name}" for name in names]


@pytest.mark.slow
def test_the_best_weights_are_uploaded_when_the_session_ends(
    pictures: Callable[..., Path], tmp_path: Path, hub: type[FakeApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_step = {0: 0.3, 1: 0.2, 2: 0.1, 3: 0.4, 4: 0.4}
    monkeypatch.setattr(
        Validation, "_losses", lambda self, run, t: [by_step[run.state.step] + 0.01 * image for image in range(4)]
    )
    config = table(pictures(8), tmp_path / "run", UPLOAD)
    config["data"]["validation"] = {"split": 0.5}
    config["best"] = {"by": "loss"}
    train(load_config(config), accept_remarks=True)
    name = "me/garp/model/loras/a-best.safetensors"
    # once, although the weights of step 1 were the best ones before those of step 2
    assert list(hub.sent).count(name) == 1
    assert hub.sent[name] == (tmp_path / "run" / "a-best.safetensors").read_bytes()
    uploads = [(e["step"], e["file"]) for e in events(tmp_path / "run", "upload")]
    assert uploads[-1] == (2, "a-best.safetensors")

    # a further session with the same best weights does not upload them again
    hub.sent.clear()
    train(load_config(config | {"steps": 4}), resume=tmp_path / "run")
    assert list(hub.sent) == ["me/garp/model/loras/a.safetensors"]


def test_a_failed_upload_is_a_note(pictures: Callable[..., Path], tmp_path: Path, hub: type[FakeApi]) -> None:
    said: list[str] = []
    images = pictures(3)
    hub.broken = "000002"
    result = train(load_config(table(images, tmp_path / "some", UPLOAD)), progress=Lines(said.append))
    assert result.finished
    assert list(hub.sent) == ["me/garp/model/loras/a-000001.safetensors", "me/garp/model/loras/a.safetensors"]
    (failed,) = events(tmp_path / "some", "upload_failed")
    assert (failed["file"], failed["reason"]) == ("a-000002.safetensors", "401 for *** at once")
    assert "a-000002.safetensors is not uploaded to me/garp: 401 for *** at once" in said
    hub.broken = "all"
    assert train(load_config(table(images, tmp_path / "none", UPLOAD)), progress=Lines(said.append)).finished
    assert "me/garp cannot be opened on the hub, uploads may fail: offline" in said
    assert len(events(tmp_path / "none", "upload_failed")) == 3
    assert TOKEN not in "".join(said)


def test_the_run_ends_when_all_is_uploaded(pictures: Callable[..., Path], tmp_path: Path, hub: type[FakeApi]) -> None:
    """In the background training goes on meanwhile: all steps are made before anything has arrived."""
    hub.gate = gate = threading.Event()
    arrived: list[int] = []

    def release() -> None:
        while not (tmp_path / "run" / "a.safetensors").exists():
            time.sleep(0.01)
        arrived.append(len(hub.sent))
        gate.set()

    threading.Thread(target=release, daemon=True).start()
    config = load_config(table(pictures(3), tmp_path / "run", {**UPLOAD, "background": True}))
    assert train(config).finished
    assert arrived == [0]
    assert len(hub.sent) == 3
    assert len(events(tmp_path / "run", "upload")) == 3


class FakeTracker:
    """A wandb module that remembers."""

    def __init__(self, id_: str = "abc") -> None:
        self.id, self.started, self.logged, self.finished, self.metrics = id_, {}, [], 0, []

    def init(self, **settings: Any) -> FakeTracker:
        self.started = settings
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        self.metrics.append((name, step_metric))

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> FakeTracker:
    found = FakeTracker()

    def image(path: str, caption: str) -> tuple[str, str]:
        return Path(path).name, caption

    module = SimpleNamespace(init=found.init, Image=image, __spec__=ModuleSpec("wandb", None))
    monkeypatch.setitem(sys.modules, "wandb", module)  # type: ignore[arg-type]
    return found


PREVIEW = {"prompts": ["a dog"], "every_steps": 3, "at_end": False, "steps": 1, "width": 64, "height": 64}


def test_numbers_and_pictures_are_sent(pictures: Callable[..., Path], tmp_path: Path, tracker: FakeTracker) -> None:
    run = tmp_path / "run"
    hook = {"kind": "wandb", "project": "faces", "send_config": True, "options": {"entity": "us", "name": "first"}}
    train(load_config(table(pictures(3), run, hook, preview={**PREVIEW, "at_start": True})))
    started = dict(tracker.started)
    config = started.pop("config")
    assert started == {"project": "faces", "name": "first", "dir": str(run), "entity": "us"}
    assert (config["adapter"]["rank"], config["output"]) == (2, "run")
    assert str(tmp_path) not in json.dumps(config)
    losses = [(v["step"], v["step/loss"], v["step/lr/unet"]) for v in tracker.logged if "step/loss" in v]
    assert losses == [(e["step"], e["loss"], e["lr"]["unet"]) for e in events(run, "step")]
    assert [v for v in tracker.logged if "sample_0" in v] == [
        {"sample_0": ("00.png", "a dog"), "step": 0},
        {"sample_0": ("00.png", "a dog"), "step": 3},
    ]
    assert (tracker.metrics, tracker.finished) == ([("*", "step")], 1)
    assert json.loads((run / "wandb.json").read_text())["id"] == "abc"


@pytest.mark.slow
def test_a_resumed_run_goes_on_there(pictures: Callable[..., Path], tmp_path: Path, tracker: FakeTracker) -> None:
    settings = table(pictures(3), tmp_path / "run", {"kind": "wandb"})
    train(load_config(settings))
    assert "id" not in tracker.started
    train(load_config(settings | {"steps": 4}), resume=tmp_path / "run")
    assert (tracker.started["id"], tracker.started["resume"]) == ("abc", "allow")
    assert [v["step"] for v in tracker.logged] == [1, 2, 3, 4]


def test_what_cannot_be_sent_ends_nothing(
    pictures: Callable[..., Path], tmp_path: Path, tracker: FakeTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def log(values: dict[str, Any]) -> None:
        raise OSError("no network")

    monkeypatch.setattr(tracker, "log", log)
    images = pictures(3)
    config = load_config(table(images, tmp_path / "run", {"kind": "wandb"}))
    assert train(config, progress=Lines(said.append)).finished
    assert [line for line in said if line.startswith("wandb")] == ["wandb: step 1 is not sent: no network"]
    assert tracker.finished == 1

    def init(**settings: Any) -> None:
        raise OSError("no key")

    monkeypatch.setattr(sys.modules["wandb"], "init", init)
    with pytest.raises(LorasmithError, match=r"wandb cannot start \(no key\); log in"):
        train(load_config(table(images, tmp_path / "other", {"kind": "wandb"})))


def test_a_missing_package_is_said_before_anything_is_loaded(
    pictures: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # type: ignore[arg-type]
    config = load_config(table(pictures(3), tmp_path / "run", {"kind": "wandb"}, base="no-such-base"))
    with pytest.raises(LorasmithError, match=r"pip install 'lorasmith\[wandb\]'"):
        train(config)
    assert not (tmp_path / "run").exists()


def test_files_may_have_other_names_and_the_account_may_be_left_out(
    pictures: Callable[..., Path], tmp_path: Path, hub: type[FakeApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "whoami", lambda self: {"name": "me"}, raising=False)
    upload = {"kind": "upload", "repo": "garp", "names": {"a.safetensors": "weights.safetensors"}}
    train(load_config(table(pictures(3), tmp_path / "run", upload, export={})))
    assert list(hub.sent) == ["me/garp/model/weights.safetensors"]
