"""Parts of commands that need no model."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorasmith import api
from lorasmith.cli.train import split
from lorasmith.infer.settings import SampleSettings


def test_an_override_in_the_place_of_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert split("my.toml", ["a=1"]) == ("my.toml", ["a=1"])
    assert split("steps=3", ["a=1"]) == (None, ["steps=3", "a=1"])
    assert split(None, None) == (None, [])
    monkeypatch.chdir(tmp_path)
    Path("a=b.toml").touch()
    assert split("a=b.toml", []) == ("a=b.toml", [])


def test_options_of_the_python_function_are_the_settings() -> None:
    assert set(api.Drawing.__annotations__) <= set(SampleSettings.model_fields)


def test_an_output_may_hold_any_character(tmp_path: Path) -> None:
    folder = tmp_path / 'a "b" = c é'
    config = api.read_config({"base": "tiny-sd", "output": "x", "data": {"images": "y"}}, output=folder)
    assert config.output == folder


def test_the_package_is_the_train_function_too() -> None:
    import lorasmith
    import lorasmith.train.config

    with pytest.raises(lorasmith.LorasmithError, match="no such file"):
        lorasmith.train("no-such.toml")
