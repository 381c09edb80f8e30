"""`lorasmith new`: the questions, the flags, and what happens where nobody can be asked."""

from __future__ import annotations

import io
import json
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from lorasmith import api
from lorasmith.api.recipe import SUBJECTS
from lorasmith.cli import new
from lorasmith.core.errors import LorasmithError


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "photos/1.png")
    return tmp_path


def run(**options: Any) -> None:
    new.new_command(**{"config": None, "base": "tiny-sd", "images": Path("photos"), "trigger": "mia"} | options)


def test_flags_alone_write_a_config_that_check_accepts(work: Path) -> None:
    run()
    config = api.read_config(work / "mia.toml")
    assert (config.output.as_posix(), config.trigger, config.data.batch_size) == ("runs/mia", ("mia",), 6)
    assert api.check("mia.toml").ok


def test_each_embedded_base_gets_a_run_that_fits_it(work: Path) -> None:
    """The rates, lengths and guidance are those of the recipes that are measured."""
    for base, recipe in (("tiny-sd", "garp"), ("tiny-flow", "garp-flow")):
        run(base=base, config=Path(f"{base}.toml"))
        ours, measured = api.read_config(work / f"{base}.toml"), api.read_config(recipe)
        assert (ours.steps, ours.optimizer.lr) == (measured.steps, measured.optimizer.lr), base
        assert (ours.data.batch_size, ours.data.resolution) == (measured.data.batch_size, 128), base
        assert ours.preview is not None
        assert measured.preview is not None
        assert ours.preview.cfg == measured.preview.cfg, base
        assert "Memory forecast" not in (work / f"{base}.toml").read_text(), base
        assert api.check(f"{base}.toml").ok, base


def test_the_config_is_named_after_the_folder_where_there_is_no_trigger(work: Path) -> None:
    run(trigger="")
    assert tomllib.loads((work / "photos.toml").read_text())["trigger"] == []


@pytest.mark.parametrize("subject", SUBJECTS)
def test_previews_without_a_trigger_have_no_gap(work: Path, subject: str) -> None:
    run(trigger="", subject=subject)
    prompts = tomllib.loads((work / "photos.toml").read_text())["preview"]["prompts"]
    assert len(prompts) >= 2
    for prompt in prompts:
        assert "{}" not in prompt
        assert not prompt.endswith((",", ", it", " of "))
        assert " it" not in prompt
        assert ", ," not in prompt


def test_odd_triggers_give_usable_names(work: Path) -> None:
    run(trigger="<my dog/1>")
    table = tomllib.loads((work / "my-dog-1.toml").read_text())
    assert (table["trigger"], table["output"]) == (["<my dog/1>"], "runs/my-dog-1")


def test_the_folder_of_the_run_is_named_as_the_config_and_the_commands_can_be_copied(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(config=Path("my dög.toml"), trigger="zwx")
    table = tomllib.loads((work / "my dög.toml").read_text("utf-8"))
    assert (table["trigger"], table["output"]) == (["zwx"], "runs/my dög")
    command = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(command) == ["lorasmith", "train", "my dög.toml"]


def test_without_a_terminal_all_that_is_missing_is_named_at_once(work: Path) -> None:
    with pytest.raises(LorasmithError, match="--images and --trigger must be given"):
        run(images=None, trigger=None)
    assert not list(work.glob("*.toml"))


def test_a_config_is_not_replaced(work: Path) -> None:
    (work / "mia.toml").write_text("mine")
    with pytest.raises(LorasmithError, match="exists already"):
        run()
    assert (work / "mia.toml").read_text() == "mine"
    run(overwrite=True)
    assert "tiny-sd" in (work / "mia.toml").read_text()


def test_json(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["config"] == "mia.toml"
    assert found["toml"] == (work / "mia.toml").read_text()


def test_five_questions_are_asked_in_order(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    answers: Iterator[Any] = iter(["tiny-sd", Path("photos"), "bob", "style", 8.0])
    asked: list[str] = []

    def prompt(question: str, **options: Any) -> Any:
        asked.append(question.split(" ")[0])
        return next(answers)

    monkeypatch.setattr("typer.prompt", prompt)
    new.new_command()
    assert asked == ["Base", "Folder", "Trigger", "What", "Memory"]
    assert tomllib.loads((work / "bob.toml").read_text())["adapter"]["rank"] == 32


def test_an_empty_answer_means_the_default_that_is_shown(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of a person at a terminal, with nothing between them and the command replaced."""
    keys = io.StringIO("\nphotos\nmia\n\n\n")
    monkeypatch.setattr(keys, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", keys)
    monkeypatch.setattr(new, "card_memory", lambda: 12.0)
    new.new_command()
    assert tomllib.loads((work / "mia.toml").read_text())["base"] == "tiny-sd"


def test_what_can_be_answered_is_what_there_are_recipes_for() -> None:
    assert tuple(SUBJECTS) == new.WHAT


def test_what_is_given_is_not_asked(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)

    def refuse(question: str, **options: Any) -> Any:
        raise AssertionError(question)

    monkeypatch.setattr("typer.prompt", refuse)
    run(subject="object", memory=8.0)
    assert (work / "mia.toml").exists()


@pytest.mark.parametrize(
    ("read", "wrong", "right", "value"),
    [
        (new.subject_of, "pet", " Style ", "style"),
        (new.memory_of, "much", "8 GB", 8.0),
        (new.folder_of, "missing", "photos", Path("photos")),
        (new.folder_of, "empty", "photos", Path("photos")),
        (new.base_of, "sd15", " tiny-sd ", "tiny-sd"),
        (new.base_of, "model.safetensors", "owner/name", "owner/name"),
    ],
)
def test_a_wrong_answer_is_refused_so_that_the_question_comes_again(
    work: Path, read: Callable[[str], Any], wrong: str, right: str, value: Any
) -> None:
    (work / "empty").mkdir()
    with pytest.raises(typer.BadParameter):
        read(wrong)
    assert read(right) == value
