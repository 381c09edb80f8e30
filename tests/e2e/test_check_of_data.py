"""What `check` and `train` say of a folder of images, as it comes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from answers import Program
from PIL import Image


def write(folder: Path, base: str, more: str = "") -> Path:
    """A config for the pictures in `folder/images`."""
    file = folder / "c.toml"
    images, output = json.dumps(str(folder / "images")), json.dumps(str(folder / "run"))
    text = f"base = {json.dumps(base)}\noutput = {output}\nsteps = 1\ndata.images = {images}\ndata.resolution = 64\n"
    file.write_text(text + more)
    return file


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((128, 128), 40 + seed).convert("RGB").save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        picture(tmp_path / "images" / f"{i}.png", i).with_suffix(".txt").write_text("a photo of garp")
    return tmp_path


def test_a_trigger_that_no_caption_has_stops_a_training(here: Program, base: str, folder: Path) -> None:
    config = write(folder, base, 'trigger = ["mia"]\n')
    checked = here("check", config)
    assert checked.code == 0
    assert "3 serious remarks" in checked.out
    assert "would stop at the serious remarks" in checked.out
    rows = json.loads(here("check", config, "--json").out)
    assert (rows["ok"], rows["serious"]) == (True, 3)
    assert [row["severity"] for row in rows["images"] if row["kind"] == "trigger"] == ["serious"] * 3

    stopped = here("train", config)
    assert stopped.code == 1
    assert "and 2 more like this" in stopped.err
    assert "--yes" in stopped.err
    assert not (folder / "run").exists()
    assert here("train", config, "--yes").code == 0


@pytest.mark.slow
def test_missing_captions(here: Program, base: str, folder: Path) -> None:
    (folder / "images" / "1.txt").unlink()
    config = write(folder, base)
    for command in ("check", "train"):
        answer = here(command, config)
        assert answer.code == 1
        assert "1 of 3 images has no caption" in answer.out + answer.err
    answer = here("train", config, 'trigger=["garp"]')
    assert answer.code == 0
    assert answer.err.count('"garp" is used') == 1


@pytest.mark.slow
def test_a_sweep_has_nobody_to_ask(here: Program, base: str, folder: Path) -> None:
    config = write(folder, base, 'trigger = ["mia"]\nadapter.rank = 2\n')
    answer = here("sweep", config, "--over", "seed=0", "--out", folder / "sweep", "--device", "cpu")
    assert answer.code == 0, answer.err
    assert "no trigger word" in next((folder / "sweep" / "logs").iterdir()).read_text()
