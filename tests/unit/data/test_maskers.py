"""Masks from transparency, from a plain background, from a model that is not there."""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

import lorasmith
from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.data.maskers import rembg
from lorasmith.data.maskers.color import FromColor, connected_to_border


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ring on a slightly uneven green, transparent outside of it in `b.png`."""
    folder = tmp_path / "images"
    folder.mkdir()
    picture = Image.new("RGB", (60, 40), (10, 200, 30))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 60, 10), (14, 195, 36))
    draw.ellipse((20, 10, 50, 38), (250, 250, 250))
    draw.ellipse((30, 18, 40, 30), (10, 200, 30))
    picture.save(folder / "a.png")
    alpha = Image.new("L", picture.size)
    ImageDraw.Draw(alpha).ellipse((20, 10, 50, 38), 255)
    picture.putalpha(alpha)
    picture.save(folder / "b.png")
    return folder


def flooded(places: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The plain way: one place after another, from the border inwards."""
    height, width = places.shape
    reached = np.zeros_like(places)
    ends = {(y, x) for y in range(height) for x in range(width) if y in (0, height - 1) or x in (0, width - 1)}
    waiting = deque(ends)
    while waiting:
        y, x = waiting.popleft()
        if 0 <= y < height and 0 <= x < width and places[y, x] and not reached[y, x]:
            reached[y, x] = True
            waiting += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return reached


@pytest.mark.parametrize("share", [0.3, 0.55, 0.65, 0.9])
def test_what_hangs_together_with_the_border(share: float) -> None:
    for seed in range(6):
        places = np.random.default_rng(seed).random((13 + seed, 17)) < share
        assert np.array_equal(connected_to_border(places), flooded(places))


def test_a_plain_background(folder: Path) -> None:
    with Image.open(folder / "a.png") as picture:
        plain = picture.convert("RGB")
    ring = np.asarray(FromColor()(plain, None))
    assert set(np.unique(ring)) == {0, 255}
    assert ring[24, 35] == 255  # the hole is not at the border
    assert ring[2, 2] == ring[39, 59] == 0
    assert np.asarray(FromColor(holes=True)(plain, None))[24, 35] == 0
    narrow = np.asarray(FromColor(color="#0ac81e", tolerance=0.0)(plain, None))
    assert narrow[2, 2] == 255  # not quite that green
    assert narrow[39, 59] == 0
    assert np.asarray(FromColor(color="white")(plain, None)).min() == 255  # nothing white at the border


def test_masks_are_written_shown_and_left_alone(folder: Path) -> None:
    made = lorasmith.masks(folder, "color")
    assert sorted(p.name for p in made.folder.iterdir()) == ["a.png", "b.png", "contact-sheet.jpg"]
    assert made.sheet is not None
    with Image.open(made.sheet) as sheet:
        assert min(sheet.size) > 100
    Image.new("L", (60, 40), 255).save(folder / "masks" / "a.png")
    again = lorasmith.masks(folder, "color", settings={"tolerance": 0.2})
    assert (list(again.made), [p.name for p in again.kept]) == ([], ["a.png", "b.png"])
    assert "100.0%" in again.remarks[folder / "a.png"]
    assert lorasmith.masks(folder, "color", overwrite=True).made[folder / "a.png"] < 0.9


def test_from_transparency(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.png: it has no alpha channel") as error:
        lorasmith.masks(folder)
    assert len(error.value.problems) == 1
    with Image.open(folder / "b.png") as picture, Image.open(folder / "masks" / "b.png") as mask:
        assert np.array_equal(np.asarray(picture.getchannel("A")), np.asarray(mask))


def test_a_model_of_rembg(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(LorasmithError, match=r'pip install "lorasmith\[masks\]"') as error:
        lorasmith.masks(folder, "rembg")
    assert "all 2 images" in str(error.value)

    fake: Any = ModuleType("rembg")
    asked: list[Any] = []
    fake.new_session = lambda model: asked.append(model) or f"session of {model}"

    def remove(picture: Image.Image, *, session: str, only_mask: bool) -> Image.Image:
        assert (session, only_mask) == ("session of isnet-anime", True)
        return Image.new("L", picture.size, 128)

    fake.remove = remove
    monkeypatch.setitem(sys.modules, "rembg", fake)
    rembg.session.cache_clear()
    made = lorasmith.masks(folder, "rembg", settings={"model": "isnet-anime"})
    assert asked == ["isnet-anime"]  # loaded once
    assert [round(share, 2) for share in made.made.values()] == [0.5, 0.5]

    def broken(model: str) -> None:
        raise OSError("no network")

    fake.new_session = broken
    rembg.session.cache_clear()
    with pytest.raises(LorasmithError, match='model "u2net" of rembg cannot be loaded: no network'):
        lorasmith.masks(folder, "rembg", overwrite=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "colour"}, 'did you mean "color"'),
        ({"source": "color", "settings": {"color": "greenish"}}, "#00ff00"),
        ({"source": "color", "settings": {"tolerance": 2}}, "tolerance"),
        ({"images": "nowhere"}, "no such folder"),
        ({"images": "."}, "there are images in images: name one of these folders"),
    ],
)
def test_what_is_wrong_is_said(
    folder: Path, change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    with pytest.raises(LorasmithError, match=message):
        lorasmith.masks(**{"images": folder, **change})


def test_two_images_of_one_name(folder: Path) -> None:
    Image.new("RGB", (9, 9)).save(folder / "a.jpg")
    with pytest.raises(LorasmithError, match=r"a\.jpg and a\.png would have the same mask"):
        lorasmith.masks(folder, "color")
