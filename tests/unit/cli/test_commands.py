"""Parts of commands that need no model."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorasmith import api
from lorasmith.cli import main
from lorasmith.cli.inspect import rows
from lorasmith.cli.train import separate_config
from lorasmith.sampling.options import SampleOptions
from lorasmith.sampling.settings import SampleSettings


def test_an_override_in_the_place_of_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert separate_config("my.toml", ["a=1"]) == ("my.toml", ["a=1"])
    assert separate_config("steps=3", ["a=1"]) == (None, ["steps=3", "a=1"])
    assert separate_config(None, []) == (None, [])
    monkeypatch.chdir(tmp_path)
    Path("a=b.toml").touch()
    assert separate_config("a=b.toml", []) == ("a=b.toml", [])


def test_options_of_the_python_function_are_the_settings() -> None:
    assert set(SampleOptions.__annotations__) <= set(SampleSettings.model_fields)


def test_an_output_may_hold_any_character(tmp_path: Path) -> None:
    folder = tmp_path / "a 'b' = [c] # é"
    config = api.read_config({"base": "tiny-sd", "output": "x", "data": {"images": "y"}}, output=folder)
    assert config.output == folder


def test_the_package_is_the_train_function_too() -> None:
    import lorasmith
    import lorasmith.training.config

    with pytest.raises(lorasmith.LorasmithError, match="no such file"):
        lorasmith.train("no-such.toml")


def test_inspect_says_each_thing_once_in_words() -> None:
    found = {
        "bytes": 2_904_752,
        "rank": {"4": 3, "8": 1},
        "trigger": [],
        "tags": {"garp": 14, "beach": 1},
        "readers": {"A": {"loads": "yes", "remarks": []}, "B": {"loads": "no", "remarks": ["no DoRA"]}},
        "norms": {"unet mid": 2.0, "te": 1.0},
        "training": {"lr": "1e-4"},
    }
    shown = dict(rows(found))
    assert shown["size"] == "2.90 MB"
    assert shown["rank"] == "4: 3, 8: 1"
    assert shown["tags"] == "garp (14), beach (1)"
    assert shown["loads in"].splitlines() == ["A: yes", "B: no", "B: no DoRA"]
    mid, te = (line.count("=") for line in shown["change"].splitlines())
    assert mid == 2 * te
    assert "trigger" not in shown
    assert shown["training"] == "lr = 1e-4"
    assert "training" not in dict(rows(found | {"config": "base = 1"}))


def test_a_lack_of_memory_is_said_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_out(**options: object) -> None:
        raise ImportError("libtorch_cpu.so: failed to map segment from shared object")

    monkeypatch.setattr(main, "app_for", lambda arguments: run_out)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == main.EXIT_MISTAKE
    message = capsys.readouterr().err
    assert "memory does not suffice" in message
    assert "--resume" in message
    assert "Traceback" not in message
