"""A config by answers, form and TOML: comments stay, and nothing leads out of the folders."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.core.package import assets
from lorasmith.studio.config_places import check_places
from lorasmith.studio.paths import Roots
from lorasmith.studio.toml_text import change
from lorasmith.studio.worker import answer, check_text
from lorasmith.studio.worker_process import Worker

Open = Callable[..., TestClient]


def test_a_change_of_the_form_keeps_the_comments_of_the_toml() -> None:
    text = '# mine\nbase = "a" # why\nadapter = "lora"\n\n[data] # here\nimages = "x"\n'
    changed = change(text, {"base": "b", "adapter.rank": 4, "optimizer.lr": 1e-4, "data.images": "y", "seed": None})
    assert tomllib.loads(changed) == {
        "base": "b",
        "adapter": {"kind": "lora", "rank": 4},
        "data": {"images": "y"},
        "optimizer": {"lr": 1e-4},
    }
    assert all(comment in changed for comment in ("# mine", "# why", "# here"))
    assert tomllib.loads(change(changed, {"optimizer.lr": None}))["optimizer"] == {}
    with pytest.raises(LorasmithError, match="base holds a plain value"):
        change("base = 3\n", {"base.x": 1})
    with pytest.raises(LorasmithError, match="cannot be read"):
        change("base = ", {"seed": 1})


@pytest.fixture
def client(tmp_path: Path, open_studio: Open, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "photos/1.png")
    return open_studio(tmp_path)


def test_the_first_base_of_the_user_is_proposed(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model/model_index.json").write_text("{}")
    choices = client.get("/api/new_run/choices").json()
    assert (choices["bases"], choices["base"]) == (["tiny-sd", "tiny-flow", "my-model"], "my-model")


@pytest.mark.slow
def test_a_config_from_answers_is_changed_from_both_sides(client: TestClient, tmp_path: Path) -> None:
    choices = client.get("/api/new_run/choices").json()
    assert (choices["bases"], choices["base"]) == (["tiny-sd", "tiny-flow"], "tiny-sd")
    assert (choices["images"], choices["runs"]) == ({"photos": 1}, "runs")
    body = {"base": "tiny-sd", "images": "photos", "trigger": "mia", "output": "runs/mia", "memory": 8}
    made = client.post("/api/new_run/recipe", json=body).json()
    assert made["values"]["trigger"] == ["mia"]
    outside = client.post("/api/new_run/recipe", json=body | {"images": "/etc"})
    assert (outside.status_code, [each["where"] for each in outside.json()["problems"]]) == (400, ["data.images"])
    edited = client.post(
        "/api/new_run/edit",
        json={"toml": made["toml"], "changes": {"steps": {"toml": "5"}, "trigger": {"value": ["bob"]}, "seed": None}},
    ).json()
    assert (edited["values"]["steps"], edited["values"]["trigger"]) == (5, ["bob"])
    bad = client.post("/api/new_run/edit", json={"toml": made["toml"], "changes": {"steps": {"toml": "5 5"}}})
    assert (bad.status_code, "not a value" in bad.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("key", "text"),
    [("output", "../out"), ("output", "/tmp/out"), ("data.images", "/etc"), ("start", "../x.safetensors")],
)
def test_a_config_cannot_lead_out_of_the_folders(client: TestClient, tmp_path: Path, key: str, text: str) -> None:
    toml = change('base = "tiny-sd"\noutput = "runs/a"\n[data]\nimages = "photos"\n', {key: text})
    for route in ("check", "start", "queue", "measure"):
        refused = client.post(f"/api/new_run/{route}", json={"toml": toml})
        assert refused.status_code == 400
        assert [problem["where"] for problem in refused.json()["problems"]] == [key]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_images_of_the_package_are_in_no_folder_of_the_studio(tmp_path: Path) -> None:
    roots = Roots([tmp_path])
    table = {"output": str(tmp_path / "run"), "data": {"subsets": [{"images": "lorasmith:garp"}]}}
    check_places(roots, table)
    for images in ("lorasmith:../../etc", "/etc"):
        with pytest.raises(ConfigError, match="outside"):
            check_places(roots, table | {"data": {"images": images}})


def test_the_form_takes_paths_as_plain_text() -> None:
    """Not as TOML, in which `2024-photos/mia` would be an error."""
    rows = json.loads((assets().parent / "studio/static/settings.json").read_text())
    kinds = {row["key"]: row["input"] for row in rows}
    assert {kinds[key] for key in ("base", "output", "data.images", "data.validation.images")} == {"text"}


def test_a_run_is_never_started_over_another_one(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a/config.toml").write_text("")
    toml = 'base = "tiny-sd"\noutput = "runs/a"\n[data]\nimages = "photos"\n'
    refused = client.post("/api/new_run/start", json={"toml": toml})
    assert (refused.status_code, "holds a run already" in refused.json()["error"]) == (400, True)


def test_opening_a_config_does_not_import_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_plugin.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = 'base = "tiny-sd"\noutput = "o"\nplugins = ["evil_plugin"]\n[data]\nimages = "x"\n'
    for full in (False, True):
        errors = check_text(lambda message: None, text, full)["errors"]
        assert [(each["where"], "names code" in each["found"]) for each in errors] == [("plugins", True)]
    assert "evil_plugin" not in sys.modules


def test_all_problems_of_a_config_come_with_their_fields() -> None:
    text = 'base = "tiny-sd"\noutput = "o"\nsteps = "x"\nadapter.rank = 0\nunknown = 1\n[data]\nimages = "x"\n'
    errors = check_text(lambda message: None, text, False)["errors"]
    assert {each["where"] for each in errors} >= {"steps", "adapter.rank", "unknown"}


CHILD = """
import json, sys, time
for line in sys.stdin:
    request = json.loads(line)
    if request["method"] == "wait": time.sleep(60)
    if request["method"] == "die": sys.exit(1)
    if request["method"] == "wrong":
        print(json.dumps({"error": "x", "problems": [{"where": "a", "found": "b"}]}), flush=True)
        continue
    print(json.dumps({"progress": {"done": 1}}), flush=True)
    print(json.dumps({"result": request["parameters"]}), flush=True)
"""


def test_a_helper_process_that_ends_or_hangs_is_replaced() -> None:
    worker = Worker(command=[sys.executable, "-c", CHILD])
    assert worker.ask("echo", 120, a=1) == {"a": 1}
    with pytest.raises(LorasmithError, match="has ended"):
        worker.ask("die", 120)
    with pytest.raises(LorasmithError, match="has not ended within"):
        worker.ask("wait", 0.2)
    with pytest.raises(ConfigError) as caught:
        worker.ask("wrong", 120)
    assert caught.value.problems[0].where == "a"
    assert worker.ask("echo", 120, b="ü") == {"b": "ü"}
    worker.end()


def test_a_bug_of_the_helper_process_is_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    import io

    output = io.StringIO()
    answer({"method": "check", "parameters": {"text": 3, "full": False}}, output)
    assert "a bug in Lorasmith" in output.getvalue()
