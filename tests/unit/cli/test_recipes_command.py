"""`lorasmith recipes`, and a recipe's name in place of a config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorasmith import api
from lorasmith.cli.recipes import recipes_command
from lorasmith.core.errors import LorasmithError
from lorasmith.core.recipes import recipe_names


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_list_has_a_line_for_each_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    recipes_command()
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == recipe_names()
    (line,) = [line for line in lines if line.startswith("sd15-8gb ")]
    assert "A character on Stable Diffusion 1.5 with a card of 8 GB" in line
    assert line.rstrip().endswith("5.6 GiB  not measured")


def test_the_list_in_json_says_which_numbers_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    recipes_command(json=True)
    measured = {each["name"]: each["measured"] for each in json.loads(capsys.readouterr().out)["recipes"]}
    assert measured["garp"]
    assert measured["kinds/dora"]
    assert not measured["sdxl-8gb"]


def test_a_written_recipe_is_the_same_config_and_names_its_own_file(capsys: pytest.CaptureFixture[str]) -> None:
    recipes_command("kinds/lora", write=Path("mine.toml"))
    assert api.read_config("mine.toml") == api.read_config("kinds/lora")
    assert "#     lorasmith train mine.toml\n" in Path("mine.toml").read_text(encoding="utf-8")
    assert "lorasmith train mine.toml" in capsys.readouterr().out
    with pytest.raises(LorasmithError, match="exists already"):
        recipes_command("kinds/lora", write=Path("mine.toml"))


def test_a_misspelled_recipe_gets_the_nearest_name() -> None:
    with pytest.raises(LorasmithError, match='did you mean "sd15-style"'):
        recipes_command("sd15-stile")
    with pytest.raises(LorasmithError, match='no such file, and no recipe of this name; did you mean "sd15-style"'):
        api.read_config("sd15-stile")


def test_a_file_goes_before_the_recipe_of_its_name() -> None:
    Path("garp").write_text('base = "tiny-sd"\noutput = "x"\ndata.images = "lorasmith:others"\n')
    config = api.read_config("garp")
    assert config.output == Path("x")
    assert config.data.images is not None
    assert (config.data.images / "LICENSE").is_file()


def test_pictures_that_do_not_come_with_the_package_are_refused() -> None:
    with pytest.raises(LorasmithError, match="there are lorasmith:garp and lorasmith:others"):
        api.read_config("garp", ["data.subsets.0.images=lorasmith:garb"])
