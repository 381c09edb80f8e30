"""What a user does with a LoRA: look into it, draw with it; and before it, check."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from answers import ROOT, Answer, Program
from PIL import Image, ImageChops

Config = Callable[..., Path]


@pytest.fixture
def lora(here: Program, config: Config, tmp_path: Path) -> Path:
    """A LoRA that was trained hard for a few steps, so that its effect can be seen."""
    answer = here("train", config(), "optimizer.lr=0.05", "steps=6")
    assert answer.code == 0, answer.err
    return tmp_path / "run/garp.safetensors"


@pytest.mark.slow
def test_a_lora_changes_the_pictures_and_strength_0_does_not(
    here: Program, base: str, lora: Path, tmp_path: Path
) -> None:
    def draw(name: str, *more: str) -> Image.Image:
        folder = tmp_path / name
        options = ["--prompt", "a photo of garp", "--seed", "3", "--steps", "3", "--size", "64x64", "--json"]
        answer = here("sample", "--base", base, *options, "--output", folder, *more)
        assert answer.code == 0, answer.err
        assert Path(answer.json["grid"]).is_file()
        with Image.open(answer.json["files"][0]) as picture:
            assert picture.size == (64, 64)
            assert "a photo of garp" in str(picture.info["parameters"])
            return picture.convert("RGB")

    plain, none, full = draw("base"), draw("none", "--lora", f"{lora}:0"), draw("full", "--lora", str(lora))
    assert ImageChops.difference(plain, none).getbbox() is None
    assert ImageChops.difference(plain, full).getbbox() is not None


@pytest.mark.slow
def test_inspect_shows_how_it_was_made(here: Program, lora: Path) -> None:
    answer = here("inspect", lora, "--json")
    assert answer.code == 0, answer.err
    text = json.dumps(answer.json)
    assert "garp" in text
    shown = here("inspect", lora)
    assert shown.code == 0, shown.err
    assert "garp" in shown.out
    made = shown.out.split("made with this config:")[1]
    assert tomllib.loads(made)["adapter"]["rank"] == 2


def test_check_for_people_and_machines(here: Program, config: Config, tmp_path: Path) -> None:
    path = config()
    answer = here("check", path)
    assert answer.code == 0, answer.err
    for words in ("lora, rank 2", "3 steps", "A run would start"):
        assert words in answer.out
    machine = here("check", path, "--json", "--measure")
    assert machine.json["ok"] is True
    assert machine.json["measured"]["seconds_per_step"] > 0
    assert not (tmp_path / "run").exists()
    wrong = here("check", path, "adapter.ranc=3")
    assert wrong.code == 1
    assert "adapter.ranc" in wrong.out
    assert 'did you mean "rank"?' in wrong.out
    assert "Traceback" not in wrong.err


def demo_is_whole() -> bool:
    assets = ROOT / "src/lorasmith/assets"
    return (assets / "tiny-sd").is_dir() and (assets / "garp").is_dir()


@pytest.mark.slow
@pytest.mark.skipif(not demo_is_whole(), reason="the embedded base is not part of this tree")
def test_the_demo_ends_with_a_picture(program: Program, tmp_path: Path) -> None:
    answer: Answer = program("demo", "--output", tmp_path / "demo", "--json")
    assert answer.code == 0, answer.err
    picture = Path(answer.json["picture"])
    assert str(picture.resolve()) in answer.err
    with Image.open(picture) as image:
        assert image.width > 6 * 128
        assert image.height > 2 * 128
    assert (tmp_path / "demo/report.html").is_file()
