"""Images without a caption: what they are trained with, and that it is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorasmith.core.config import validate
from lorasmith.core.errors import ConfigError
from lorasmith.data.config import DataConfig
from lorasmith.data.dataset import Dataset


@pytest.fixture
def images(pictures: Callable[..., Path]) -> Path:
    """Four images, of which 00 has no caption and 01 an empty one."""
    folder = pictures(4)
    (folder / "00.txt").unlink()
    (folder / "01.txt").write_text("")
    return folder


def build(images: Path | None, default: str | None, **settings: Any) -> Dataset:
    table = {"resolution": 64, **({} if images is None else {"images": images}), **settings}
    return Dataset.build(validate(DataConfig, table), seed=0, default_caption=default)


def captions(data: Dataset) -> list[str]:
    return [record.caption for record in data.records]


def test_the_default_is_the_caption_and_it_is_said_once(images: Path) -> None:
    data = build(images, "garp")
    assert captions(data) == ["garp", "", "a photo of garp, number 2", "a photo of garp, number 3"]
    (remark,) = data.remarks
    assert (remark.path, remark.text) == (images, '1 of 4 images has no caption; "garp" is used')


def test_without_a_default_it_is_an_error_that_says_what_to_do(images: Path) -> None:
    (images / "03.txt").unlink()
    with pytest.raises(ConfigError) as caught:
        build(images, "")
    (problem,) = caught.value.problems
    assert (problem.where, problem.found) == ("data.images", "2 of 4 images have no caption: 00.png, 03.png")
    for way in ("00.txt", "data.caption =", "trigger =", "data.empty_captions = true"):
        assert way in problem.remedy


@pytest.mark.parametrize("default", ["", "garp"])
def test_empty_captions_that_are_asked_for(images: Path, default: str) -> None:
    data = build(images, default, empty_captions=True)
    assert captions(data)[:2] == ["", ""]
    assert data.remarks == []


def test_other_problems_are_told_together(images: Path) -> None:
    (images / "02.png").write_bytes(b"")
    with pytest.raises(ConfigError) as caught:
        build(images, "")
    assert len(caught.value.problems) == 2


def test_a_fallback_caption_and_a_template_are_captions(images: Path) -> None:
    assert captions(build(images, "", caption="a doll"))[0] == "a doll"
    assert captions(build(images, "", caption=""))[0] == ""
    template = {"kind": "template", "templates": ["a photo of garp"]}
    assert captions(build(images, "garp", transforms=[template]))[0] == ""
    assert captions(build(None, "", subsets=[{"images": images, "transforms": [template]}]))[0] == ""
    # Words that are only changed do not come from nothing.
    assert captions(build(images, "garp", transforms=["shuffle"]))[0] == "garp"


@pytest.mark.parametrize("kind", [{"hold_out": False}, {"preserve": True}])
def test_what_the_model_knows_already_never_gets_the_new_word(images: Path, kind: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(None, "garp", subsets=[{"images": images}, {"images": images, **kind}])
    (problem,) = caught.value.problems
    assert problem.where == "data.subsets.1.images"
    assert "trigger" not in problem.remedy
    asked = build(None, "garp", subsets=[{"images": images}, {"images": images, "empty_captions": True, **kind}])
    assert captions(asked)[::4] == ["garp", ""]


def test_held_out_images_too(images: Path, pictures: Callable[..., Path]) -> None:
    others = pictures(7, name="others")
    for file in others.iterdir():
        if int(file.stem) < 4 or file.name == "05.txt":
            file.unlink()
    data = build(images, "garp", validation={"images": others})
    assert [r.caption for r in data.validation] == ["a photo of garp, number 4", "garp", "a photo of garp, number 6"]
    assert [r.path for r in data.remarks] == [images, others]


def test_the_key_does_not_change_what_a_checkpoint_belongs_to(images: Path) -> None:
    one, other = build(images, None, empty_captions=True), build(images, None)
    assert one.fingerprint() == other.fingerprint()
    assert one.fingerprint() != build(images, "garp").fingerprint()
