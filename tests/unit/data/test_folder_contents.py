"""Every file of a data folder is used, or named with what to do about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lorasmith.core.config import validate
from lorasmith.data.config import NO_CAPTION_FILES, SubsetConfig
from lorasmith.data.dataset import Dataset
from lorasmith.data.folder_contents import FolderContents
from lorasmith.data.listing import images_in
from lorasmith.data.scan import ScanResult, scan


def picture(path: Path, colour: int = 0, size: tuple[int, int] = (64, 64)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 90, 90)).save(path)
    return path


def look(folder: Path, **settings: Any) -> ScanResult:
    return scan(validate(SubsetConfig, {"images": folder, **settings}), "data", False)


def contents(folder: Path, **settings: Any) -> FolderContents:
    (found,) = look(folder, **settings).contents
    return found


def remarks(folder: Path, **settings: Any) -> list[tuple[str, str, str]]:
    return [(r.kind, r.severity, r.text) for r in look(folder, **settings).remarks]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images with captions."""
    for i in (1, 2):
        picture(tmp_path / "images" / f"{i}.png", i).with_suffix(".txt").write_text("mia")
    return tmp_path / "images"


def test_a_good_folder_needs_no_word(folder: Path) -> None:
    (folder / ".hidden").touch()
    (folder / "Thumbs.db").touch()
    assert contents(folder).summary() == {
        "folder": str(folder),
        "files": 4,
        "images": 2,
        "captions": 2,
        "unused": [],
    }
    assert remarks(folder) == []


def test_other_files_are_counted_without_a_remark(folder: Path) -> None:
    (folder / "notes.md").touch()
    (folder / "1.npz").touch()
    assert contents(folder).summary()["unused"] == ["1.npz", "notes.md"]
    assert remarks(folder) == []


@pytest.mark.parametrize("suffix", [".psd", ".CR2", ".dng", ".svg", ".mp4"])
def test_pictures_that_are_not_read(folder: Path, suffix: str) -> None:
    (folder / f"3{suffix}").touch()
    ((kind, severity, text),) = remarks(folder)
    assert (kind, severity) == ("format", "warning")
    assert f"3{suffix}" in text


def test_broken_links(folder: Path) -> None:
    (folder / "3.png").symlink_to(folder / "unplugged" / "3.png")
    (folder / "3.txt").write_text("mia")
    found = remarks(folder)
    assert found[0] == ("broken_link", "serious", "1 link leads to files that do not exist: 3.png")
    assert found[1][2] == "1 caption without an image: 3.txt"
    assert contents(folder).summary()["files"] == 6


@pytest.mark.parametrize("name", ["3.png.txt", "3.json", "3.tags"])
def test_captions_under_other_names(folder: Path, name: str) -> None:
    (folder / name).write_text("mia")
    if name == "3.json":  # of no image: anything
        assert remarks(folder) == []
    picture(folder / "3.png", 3)
    ((kind, severity, text),) = remarks(folder)
    assert (kind, severity) == ("caption_name", "serious")
    assert name in text
    assert "1.txt" in text
    # Where the image has a caption of its own, the other file is not missed.
    (folder / "3.txt").write_text("mia")
    assert remarks(folder) == []
    assert contents(folder).summary()["unused"] == [name]


def test_the_reason_of_missing_captions_is_told_with_them(tmp_path: Path, dataset: Callable[..., Dataset]) -> None:
    from lorasmith.core.errors import ConfigError
    from lorasmith.data.config import DataConfig

    picture(tmp_path / "x" / "1.png")
    (tmp_path / "x" / "1.png.txt").write_text("mia")
    with pytest.raises(ConfigError, match=r"1\.png\.txt"):
        Dataset.build(validate(DataConfig, {"images": tmp_path / "x", "resolution": 64}), seed=0, default_caption="")
    assert dataset(tmp_path / "x").remarks


@pytest.mark.parametrize("name", ["1-masklabel.png", "1.mask.png", "1_mask.PNG", "1-mask.png", "1_Mask.webp"])
def test_masks_beside_images_are_not_trained_on(folder: Path, name: str) -> None:
    Image.new("L", (64, 64), 255).save(folder / name)
    assert [r.path.name for r in look(folder).records] == ["1.png", "2.png"]
    ((kind, severity, text),) = remarks(folder)
    assert (kind, severity) == ("mask", "serious")
    assert name in text
    assert f'data.masks = "{folder}"' in text


@pytest.mark.parametrize("name", ["{}-masklabel.png", "{}.mask.png", "{}_mask.jpg", "{}-mask.webp"])
def test_masks_beside_images_are_used_where_the_key_says_so(folder: Path, name: str) -> None:
    for stem in (1, 2):
        Image.new("L", (64, 64), 255).save(folder / name.format(stem))
    found = look(folder, masks=folder)
    assert found.problems == []
    assert [r.mask.name for r in found.records if isinstance(r.mask, Path)] == [name.format(1), name.format(2)]
    assert remarks(folder, masks=folder) == []
    assert contents(folder, masks=folder).used == {"images": 2, "captions": 2, "masks": 2}


def test_a_picture_with_the_name_of_a_mask_but_no_image_is_an_image(folder: Path) -> None:
    picture(folder / "carnival_mask.png", 9)
    assert len(images_in(folder, recursive=False)) == 3


@pytest.mark.parametrize("name", ["mask", "masks", "Masks"])
def test_folders_of_masks(folder: Path, name: str) -> None:
    Image.new("L", (64, 64), 255).save(picture(folder / name / "1.png"))
    for recursive in (False, True):
        found = look(folder, recursive=recursive)
        assert [r.path.name for r in found.records] == ["1.png", "2.png"]
        (remark,) = found.remarks
        assert remark.kind == "mask"
        assert "data.masks" in remark.text
    assert remarks(folder, masks=folder / name, masks_for_all=False) == []


def test_sub_folders(folder: Path) -> None:
    picture(folder / "more" / "3.png", 3)
    (folder / "empty").mkdir()
    assert [(kind, severity) for kind, severity, _ in remarks(folder)] == [("sub_folder", "warning")]
    assert "more" in remarks(folder)[0][2]
    assert remarks(folder, recursive=True) == []
    assert contents(folder, recursive=True).used["images"] == 3


def test_linked_sub_folders_are_read_once(folder: Path, tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "3.png", 3)
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    found = look(folder, recursive=True)
    assert [r.path.name for r in found.records] == ["1.png", "2.png", "3.png"]
    assert remarks(folder, recursive=True) == []


def test_a_stray_image_beside_class_folders(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / "10_mia" / f"{i}.png", i)
    picture(tmp_path / "0_off" / "9.png", 9)
    stray = picture(tmp_path / "preview.png", 8)
    ((kind, severity, text),) = remarks(tmp_path)
    assert (kind, severity) == ("class_folders", "serious")
    assert "10_mia (3)" in text
    assert "preview.png" in text
    assert "0_off" not in text
    assert remarks(tmp_path, class_folders=False) == []
    ((kind, _, text),) = remarks(tmp_path, class_folders=True)
    assert kind == "left_out"
    assert "preview.png" in text
    stray.unlink()
    assert remarks(tmp_path) == []
    picture(tmp_path / "other" / "7.png", 7)
    assert [kind for kind, _, _ in remarks(tmp_path)] == ["sub_folder"]


def test_images_that_a_table_does_not_name(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "1.png", "text": "mia"}))
    ((kind, severity, text),) = remarks(folder)
    assert (kind, severity) == ("left_out", "warning")
    assert "2.png" in text
    assert contents(folder).used["tables"] == 1


def test_images_outside_a_part_are_left_out_on_purpose(folder: Path) -> None:
    assert remarks(folder, part=[0, 1]) == []


def test_long_lists_are_cut(folder: Path) -> None:
    for i in range(10, 30):
        (folder / f"{i}.txt").write_text("mia")
    ((_, _, text),) = remarks(folder)
    assert text == "20 captions without an image: 10.txt, 11.txt, 12.txt, 13.txt, 14.txt and 15 more"


def test_captions_that_a_script_does_not_read_are_no_serious_matter(folder: Path) -> None:
    ((kind, severity, text),) = remarks(folder, caption_extension=NO_CAPTION_FILES, caption="mia")
    assert (kind, severity) == ("caption_name", "warning")
    assert "reads no caption files" in text
