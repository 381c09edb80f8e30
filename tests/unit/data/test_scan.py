"""What is found in folders and lists, and that whatever is wrong is named."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lorasmith.core.config import validate
from lorasmith.core.errors import ConfigError
from lorasmith.data.config import DataConfig, SubsetConfig
from lorasmith.data.dataset import Dataset
from lorasmith.data.listing import natural
from lorasmith.data.scan import ImageRecord, ScanResult, scan

Build = Callable[..., Dataset]


def picture(path: Path, colour: int = 0, size: tuple[int, int] = (64, 64)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 90, 90)).save(path)
    return path


def look(folder: Path, **settings: Any) -> ScanResult:
    return scan(validate(SubsetConfig, {"images": folder, **settings}), "data", False)


def names(records: list[ImageRecord]) -> list[str]:
    return [r.path.name for r in records]


def test_natural_order() -> None:
    shuffled = [Path(n) for n in ("10.png", "b2.png", "2.png", "B10.png", "1²2.png", "1.png")]
    assert [p.name for p in natural(shuffled)] == ["1.png", "1²2.png", "2.png", "10.png", "b2.png", "B10.png"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a cat", ("a cat",)),
        (b"\xef\xbb\xbfa cat\r\n", ("a cat",)),
        ("ein Käse".encode(), ("ein Käse",)),
        ("ein Käse".encode("utf-16"), ("ein Käse",)),
        (b"one\r\n\r\n two \rthree\n", ("one", "two", "three")),
        ("ein Käse".encode("utf-32"), ("ein Käse",)),
        (codecs.BOM_UTF32_BE + "ein Käse".encode("utf-32-be"), ("ein Käse",)),
        (codecs.BOM_UTF16_BE + "ein Käse".encode("utf-16-be"), ("ein Käse",)),
        ("a\u2028b".encode(), ("a\u2028b",)),
        (b"", ("",)),
        (b" \n\n", ("",)),
    ],
)
def test_caption_files(tmp_path: Path, data: bytes, expected: tuple[str, ...]) -> None:
    picture(tmp_path / "01.png").with_suffix(".txt").write_bytes(data)
    assert look(tmp_path).records[0].captions == expected


def test_a_caption_in_another_encoding_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "01.png").with_suffix(".txt").write_bytes("Käse".encode("latin-1"))
    (problem,) = look(tmp_path).problems
    assert problem.where.endswith("01.txt")
    assert "UTF-8" in problem.found


@pytest.mark.parametrize(
    "data", ["mia".encode("utf-16-le"), "mia".encode("utf-16-be"), "mia".encode("utf-32-le"), b"mia\0cat"]
)
def test_a_caption_with_nul_characters_is_no_text(tmp_path: Path, data: bytes) -> None:
    picture(tmp_path / "01.png").with_suffix(".txt").write_bytes(data)
    (problem,) = look(tmp_path).problems
    assert problem.where.endswith("01.txt")
    assert "NUL" in problem.found
    assert "UTF-8" in problem.remedy


@pytest.mark.parametrize("text", ["a\0b", "\ud83d cut in half"])
def test_tables_with_captions_that_are_no_text(tmp_path: Path, text: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": text}))
    (problem,) = look(tmp_path).problems
    assert problem.where.endswith("metadata.jsonl:1")
    (tmp_path / "meta.json").write_text(json.dumps({"a.png": {"caption": text}}))
    (problem,) = look(tmp_path, metadata=tmp_path / "meta.json").problems
    assert problem.where.endswith("meta.json: a.png")


def test_line_breaks_in_cells_are_spaces(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    (tmp_path / "metadata.csv").write_bytes(
        b'file_name,text\r\na.png,"a cat\r\non a mat"\r\nb.png,"two\n\nlines"\r\ngone.png,x'
    )
    found = look(tmp_path / "metadata.csv")
    assert [r.captions for r in found.records] == [("a cat on a mat",), ("two  lines",)]
    assert [p.where.rsplit(":")[-1] for p in found.problems] == ["7"]
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": ["one\ntwo", "three\r\nfour"]}))
    assert look(tmp_path / "metadata.jsonl").records[0].captions == ("one two", "three four")


@pytest.mark.parametrize("name", ["1.TXT", "1.Txt", "1.CAPTION"])
def test_extensions_of_captions_in_any_case(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "1.PNG")
    (tmp_path / name).write_text("mia")
    assert look(tmp_path).records[0].captions == ("mia",)


def test_which_caption_counts(tmp_path: Path) -> None:
    for name in ("a.b.png", "c.png", "d.png"):
        picture(tmp_path / name)
    (tmp_path / "a.b.txt").write_text("first")
    (tmp_path / "a.b.caption").write_text("second")
    (tmp_path / "c.caption").write_text("third")
    found = look(tmp_path, caption="fallback").records
    assert [r.caption for r in found] == ["first", "third", "fallback"]
    assert [r.captions for r in look(tmp_path, caption_extension=["caption"]).records] == [("second",), ("third",), ()]


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    picture(tmp_path / "2.PNG")
    picture(tmp_path / "sub" / "3.png")
    picture(tmp_path / ".thumbnails" / "4.png")
    picture(tmp_path / "._1.png")
    (tmp_path / "notes.md").write_text("x")
    assert names(look(tmp_path).records) == ["2.PNG"]
    assert names(look(tmp_path, recursive=True).records) == ["2.PNG", "3.png"]


def test_class_folders(tmp_path: Path) -> None:
    picture(tmp_path / "10_garp_doll" / "1.png")
    picture(tmp_path / "2_cat" / "2.png").with_suffix(".txt").write_text("a grey cat")
    picture(tmp_path / "0_off" / "3.png")
    picture(tmp_path / "other" / "4.png")
    found = look(tmp_path).records
    assert {(r.path.name, r.repeats, r.captions) for r in found} == {
        ("1.png", 10, ("garp doll",)),
        ("2.png", 2, ("a grey cat",)),
    }
    assert {r.repeats for r in look(tmp_path, repeats=3).records} == {30, 6}
    assert "no images" in look(tmp_path, class_folders=False).problems[0].found
    picture(tmp_path / "5.png")
    assert names(look(tmp_path).records) == ["5.png"]
    assert names(look(tmp_path, class_folders=True).records) == ["2.png", "1.png"]


def test_metadata(tmp_path: Path) -> None:
    for name in "abcde":
        picture(tmp_path / f"{name}.png", ord(name))
    (tmp_path / "e.txt").write_text("of e")
    rows = [
        {"file_name": "b.png", "text": "of b"},
        {"file_name": "a.png", "caption": ["one", "two"]},
        {"file_name": "c.png", "text": ""},
        {"file_name": "d.png", "text": "line\u2028separator"},
        {"file_name": "e.png"},
    ]
    text = "\ufeff" + "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "metadata.jsonl").write_text(text, encoding="utf-8")
    expected = [("of b",), ("one", "two"), ("",), ("line\u2028separator",), ("of e",)]
    for source in (tmp_path, tmp_path / "metadata.jsonl"):
        found = look(source, caption="fallback")
        assert found.problems == []
        assert [r.captions for r in found.records] == expected


def test_bad_lines_of_metadata_are_named_by_number(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    lines = ['{"file_name": "a.png"}', "{", '{"text": "x"}', "[1]", '{"file_name": "gone.png"}']
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    problems = look(tmp_path).problems
    assert [p.where.rsplit(":")[-1] for p in problems] == ["2", "3", "4", "5"]
    assert "gone.png" in problems[-1].found
    (tmp_path / "metadata.jsonl").write_bytes(b"\xff\xff")
    assert "UTF-8" in look(tmp_path).problems[0].found


def test_one_image_is_a_source(tmp_path: Path) -> None:
    assert names(look(picture(tmp_path / "a.png")).records) == ["a.png"]


def test_bad_images_are_all_named(tmp_path: Path, dataset: Build) -> None:
    for i in range(6):
        picture(tmp_path / "x" / f"{i}.png", i)
    (tmp_path / "x" / "1.png").write_bytes(b"")
    whole = (tmp_path / "x" / "2.png").read_bytes()
    (tmp_path / "x" / "2.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "x" / "3.png").write_text("<html>")
    with pytest.raises(ConfigError) as caught:
        dataset(tmp_path / "x")
    assert [Path(p.where).name for p in caught.value.problems] == ["1.png", "2.png", "3.png"]
    assert all("skip_bad_images" in p.remedy for p in caught.value.problems)
    rest = dataset(tmp_path / "x", skip_bad_images=True)
    assert names(rest.records) == ["0.png", "4.png", "5.png"]
    assert rest.summary()["skipped"] == 3


def test_only_bad_images(tmp_path: Path, dataset: Build) -> None:
    tmp_path.joinpath("1.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"none of the 1 images can be read.*1\.png"):
        dataset(tmp_path, skip_bad_images=True)


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert "Permission denied" in look(tmp_path).problems[0].found


def test_the_size_is_that_of_the_upright_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 32)).save(tmp_path / "a.jpg", exif=exif)
    assert look(tmp_path).records[0].size == (32, 64)


def test_masks(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / f"{i}.png", i)
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.new("L", (32, 32), 255).save(masks / "0.png")
    Image.new("L", (64, 16), 255).save(masks / "1.webp")
    found = look(tmp_path, masks=masks, recursive=True)
    assert [r.mask for r in found.records] == [masks / "0.png"]
    shape, missing = found.problems
    assert "64 x 16" in shape.found
    assert shape.where.endswith("1.webp")
    assert "no mask" in missing.found
    some = look(tmp_path, masks=masks, masks_for_all=False)
    assert [r.mask and r.mask.name for r in some.records] == ["0.png", None]  # type: ignore[union-attr]
    assert [p.where for p in look(tmp_path, masks=tmp_path / "none", masks_for_all=False).problems] == ["data.masks"]
    assert [r.mask for r in look(tmp_path, masks="alpha").records] == ["alpha"] * 3


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "either images"),
        ({"images": "a", "subsets": [{"images": "b"}]}, "either images"),
        ({"images": "a", "resolution": 500}, "multiple of 8"),
        ({"images": "a", "buckets": {"min": 512, "max": 256}}, "larger than max"),
        ({"images": "a", "transforms": ["filp"]}, "flip"),
        ({"images": "a", "transforms": [{"kind": "template", "templates": ["a {captoin}"]}]}, "{captoin}"),
        ({"images": "a", "repeats": 0}, "repeats"),
    ],
)
def test_wrong_settings(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(DataConfig, table)
    assert words in str(caught.value)


def test_settings_of_the_only_subset_may_stand_beside_images() -> None:
    config = validate(DataConfig, {"images": "a", "repeats": 3, "caption": "x"})
    assert config.sources == (SubsetConfig(images=Path("a"), repeats=3, caption="x"),)
    again = validate(DataConfig, {k: v for k, v in config.model_dump().items() if v is not None})
    assert again == config


def test_images_that_are_too_small_are_left_out_and_named(tmp_path: Path) -> None:
    """By area, and an image of exactly the size is left out, too, as in the originals that have such a setting."""
    for name, size in {"a": (64, 64), "b": (65, 64), "c": (16, 256), "d": (32, 129), "e": (63, 65)}.items():
        picture(tmp_path / f"{name}.png", size=size).with_suffix(".txt").write_text("a cat")
    found = look(tmp_path, larger_than=64)
    assert names(found.records) == ["b.png", "d.png"]
    assert not found.problems
    assert found.contents[0].summary()["unused"] == ["a.png", "c.png", "e.png"]
    (remark,) = found.remarks
    assert (remark.kind, remark.severity) == ("small", "note")
    assert "3 images left out by larger_than" in remark.text
    assert "a.png, c.png, e.png" in remark.text
    # `part` counts what is left; width and height may differ
    assert names(look(tmp_path, larger_than=(64, 64), part=(1, 2)).records) == ["d.png"]
    assert names(look(tmp_path, larger_than=(16, 16)).records) == [f"{n}.png" for n in "abcde"]


def test_a_picture_that_cannot_be_read_is_not_small(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", size=(65, 65))
    (tmp_path / "b.png").write_bytes(b"no picture")
    (problem,) = look(tmp_path, larger_than=64).problems
    assert problem.where.endswith("b.png")


def test_one_source_may_have_no_image_that_is_large_enough_but_not_all(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", size=(64, 64))
    small = {"images": tmp_path, "caption": "a cat", "larger_than": 64}
    both = validate(DataConfig, {"subsets": [small, {"images": tmp_path, "caption": "a cat"}]})
    assert len(Dataset.build(both, seed=0).records) == 1
    with pytest.raises(ConfigError, match="every image is left out by larger_than"):
        Dataset.build(validate(DataConfig, small), seed=0)
    with pytest.raises(ConfigError, match="at least 1"):
        validate(DataConfig, small | {"larger_than": 0})
