"""sd-scripts' options of the hub and of Weights & Biases, converted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from lorasmith.compat.script import Conversion, find_script
from lorasmith.core.config import to_toml
from lorasmith.core.errors import LorasmithError

Convert = Callable[..., Conversion]
SECRET = {"huggingface_token": "hf_very_secret", "wandb_api_key": "key_very_secret"}
ASKED = {"huggingface_repo_id": "me/garp", "log_with": "wandb"}


def test_secrets_are_in_the_environment_alone(convert: Convert, train_dir: Path) -> None:
    found = convert(**SECRET, **ASKED)
    assert found.secrets == {"HF_TOKEN": "hf_very_secret", "WANDB_API_KEY": "key_very_secret"}
    assert "secret" not in to_toml(found.config) + repr(found) + " ".join(found.notes)
    words = [f"--{name}={value}" for name, value in SECRET.items()]
    done = find_script("train_network").parse([*words, "--config_file=new.toml", "--output_config"]).done_message
    assert "secret" not in (train_dir / "new.toml").read_text()
    assert "without huggingface_token and wandb_api_key" in done


def test_an_upload_is_private_unless_it_is_to_be_public(convert: Convert) -> None:
    (hook,) = convert(huggingface_repo_id="me/garp", huggingface_path_in_repo="a/b", async_upload=True).config["hooks"]
    assert hook == {"kind": "upload", "repo": "me/garp", "path": "a/b", "repo_type": "model", "background": True}
    (hook,) = convert(huggingface_repo_id="me/garp", huggingface_repo_visibility="public").config["hooks"]
    assert hook["public"] is True


def test_a_tracker_has_its_own_file(convert: Convert, train_dir: Path) -> None:
    (train_dir / "t.toml").write_text('[wandb]\nentity = "us"\ntags = ["a"]\n')
    (hook,) = convert(log_with="all", log_tracker_config="t.toml", wandb_run_name="first").config["hooks"]
    assert hook == {
        "kind": "wandb",
        "project": "network_train",
        "run_name": "first",
        "options": {"entity": "us", "tags": ["a"]},
    }
    found = convert(wandb_run_name="first")
    assert "hooks" not in found.config
    assert any("wandb_run_name is ignored" in note for note in found.notes)


@pytest.fixture
def hub(train_dir: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A hub with one state, `me/garp`'s `states/x-state`; the calls are in the list."""
    state = train_dir / "hub" / "states" / "x-state"
    state.mkdir(parents=True)
    (state / "state.json").write_text(json.dumps({"run": "../x"}))
    asked: list[dict[str, Any]] = []

    def snapshot_download(repo: str, **more: Any) -> str:
        asked.append({"repo": repo, **more})
        if repo != "me/garp":
            raise OSError(f"no {repo} for {more['token']}")
        return str(train_dir / "hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize(
    ("rest", "revision", "kind"),
    [("", None, "model"), (":main", "main", "model"), (":v2:dataset", "v2", "dataset")],
)
def test_a_state_comes_from_the_hub(
    rest: str, revision: str | None, kind: str, hub: list[dict[str, Any]], convert: Convert, train_dir: Path
) -> None:
    given = {"resume": f"me/garp/states/x-state{rest}", "resume_from_huggingface": True, "huggingface_token": "t"}
    assert convert(**given).resume == train_dir / "hub/states/x-state"
    assert hub == [
        {
            "repo": "me/garp",
            "repo_type": kind,
            "revision": revision,
            "allow_patterns": ["states/x-state/*"],
            "token": "t",
        }
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("me/garp", "user/repo/path"),
        ("me/garp/x:a:b:c", "user/repo/path"),
        ("me/garp/x:main:thing", "user/repo/path"),
        ("me/garp/none", "has no folder none"),
        ("you/garp/x", r"cannot be downloaded from the hub: no you/garp for \*\*\*"),
    ],
)
def test_what_is_not_on_the_hub(name: str, said: str, hub: list[dict[str, Any]], convert: Convert) -> None:
    with pytest.raises(LorasmithError, match=said):
        convert(resume=name, resume_from_huggingface=True, huggingface_token="hf_secret")
