"""Captions, masks and sizes through the routes of the data page: it writes the ordinary files, and nothing else."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from lorasmith.studio import image_folder
from lorasmith.studio.pages import data
from lorasmith.studio.tokens import count_tokens

Open = Callable[..., TestClient]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, size in (("2.png", (300, 200)), ("10.png", (64, 64)), ("3.jpg", (40, 80))):
        Image.new("RGB", size, (90, 20, 20)).save(folder / name)
    (folder / "2.txt").write_text("garp, a <b>bold</b> robot\n")
    (folder / "note.md").write_text("not for training")
    return folder


def test_a_caption_is_written_undone_and_never_lost(images: Path, open_studio: Open) -> None:
    client = open_studio(images)
    opened = client.get("/api/data/open", params={"folder": "images"}).json()
    assert [(i["name"], i["caption"]) for i in opened["images"]] == [
        ("2.png", "garp, a <b>bold</b> robot"),
        ("3.jpg", None),
        ("10.png", None),
    ]

    def change(name: str, before: str | None, after: str | None) -> int:
        body = {"folder": "images", "changes": [{"name": name, "before": before, "after": after}]}
        return client.post("/api/data/captions", json=body).status_code

    assert change("3.jpg", None, "a tall robot") == 200
    assert (images / "3.txt").read_text() == "a tall robot\n"
    # undone: there was no file
    assert change("3.jpg", "a tall robot", None) == 200
    assert not (images / "3.txt").exists()

    # somebody else has changed it since the page was loaded
    (images / "2.txt").write_text("written in an editor")
    assert change("2.png", "garp, a <b>bold</b> robot", "lost?") == 400
    assert (images / "2.txt").read_text() == "written in an editor"
    for name in ("../images/2.png", "missing.png", "note.md", ".env"):
        assert change(name, None, "x") == 400, name
    assert sorted(path.name for path in images.iterdir()) == ["10.png", "2.png", "2.txt", "3.jpg", "note.md"]


def test_of_many_images_the_first_captions_come_at_once_and_the_others_later(
    images: Path, open_studio: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "AT_FIRST", 1)
    (images / "10.txt").write_text("on grass\n")
    client = open_studio(images)
    opened = client.get("/api/data/open", params={"folder": "images"}).json()
    assert [image["name"] for image in opened["images"]] == ["2.png"]
    assert opened["later"] == ["3.jpg", "10.png"]
    later = client.get("/api/data/captions", params={"folder": "images"}).json()["images"]
    assert later == [
        {"name": "3.jpg", "caption": None, "tokens": None},
        {"name": "10.png", "caption": "on grass", "tokens": 2},
    ]


def test_of_several_changes_none_is_made_if_one_cannot_be(images: Path, open_studio: Open) -> None:
    changes = [
        {"name": "10.png", "before": None, "after": "new"},
        {"name": "2.png", "before": "something else", "after": "new"},
    ]
    client = open_studio(images)
    answer = client.post("/api/data/captions", json={"folder": "images", "changes": changes})
    assert "changed elsewhere" in answer.json()["error"]
    assert not (images / "10.txt").exists()


def test_captions_in_a_table_are_changed_in_it_and_nothing_else(images: Path, open_studio: Open) -> None:
    table = images / "metadata.jsonl"
    lines = [
        '{"file_name": "3.jpg", "caption": "Ärger 🤖", "seed": 7}',
        "broken",
        '{"file_name": "10.png", "text": ["a", "b"]}',
    ]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    client = open_studio(images)
    opened = client.get("/api/data/open", params={"folder": "images"}).json()
    assert (opened["table"], opened["can_write"]) == ("metadata.jsonl", True)
    captions = {image["name"]: image["caption"] for image in opened["images"]}
    assert captions == {"2.png": "garp, a <b>bold</b> robot", "3.jpg": "Ärger 🤖", "10.png": "a"}

    def change(*changes: tuple[str, str | None, str | None]) -> int:
        rows = [dict(zip(("name", "before", "after"), each, strict=True)) for each in changes]
        return client.post("/api/data/captions", json={"folder": "images", "changes": rows}).status_code

    assert change(("3.jpg", "Ärger 🤖", 'a "new" one'), ("2.png", "garp, a <b>bold</b> robot", "in the table")) == 200
    assert table.read_text(encoding="utf-8").splitlines() == [
        '{"file_name": "3.jpg", "caption": "a \\"new\\" one", "seed": 7}',
        *lines[1:],
        '{"file_name": "2.png", "text": "in the table"}',
    ]
    # somebody else has changed it; a list of captions; nothing is written then
    before = table.read_bytes()
    assert change(("3.jpg", "Ärger 🤖", "lost?")) == 400
    assert change(("3.jpg", 'a "new" one', "x"), ("10.png", "a", "x")) == 400
    assert table.read_bytes() == before
    # undone: the row has no caption again
    assert change(("2.png", "in the table", None)) == 200
    assert table.read_text(encoding="utf-8").splitlines()[-1] == '{"file_name": "2.png"}'


def test_sizes_and_crops_are_those_of_training(images: Path, open_studio: Open) -> None:
    body = {"folder": "images", "names": ["2.png", "missing.png"], "resolution": 128}
    first, second = open_studio(images).post("/api/data/details", json=body).json()["details"]
    assert (first["size"], first["bucket"]) == ([300, 200], [160, 96])
    # 300 x 200 covers 160 x 96 as 160 x 107, of which 11 rows are cut off
    assert first["crop"] == pytest.approx([0, 5 / 107, 1, 101 / 107])
    assert first["lost"] == pytest.approx(11 / 107, abs=1e-3)
    assert "no such image" in second["problem"]


def test_a_mask_is_painted_shown_and_deleted(images: Path, open_studio: Open) -> None:
    client = open_studio(images)
    painted = Image.new("L", (150, 100), 0)
    painted.paste(255, (0, 0, 75, 100))
    painted = painted.convert("RGBA")  # as a canvas of a browser has it
    query = {"folder": "images", "name": "2.png"}
    assert client.post("/api/data/mask", params=query, content=png(painted)).status_code == 200
    with Image.open(images / "masks" / "2.png") as written:
        assert (written.mode, written.size, written.getpixel((10, 50)), written.getpixel((140, 50))) == (
            "L",
            (150, 100),
            255,
            0,
        )
    with Image.open(io.BytesIO(client.get("/api/data/mask", params=query).content)) as shown:
        assert (shown.size, shown.getpixel((20, 100)), shown.getpixel((280, 100))) == ((300, 200), 255, 0)

    wrong_shape = client.post("/api/data/mask", params=query, content=png(Image.new("L", (100, 100))))
    assert "aspect ratio" in wrong_shape.json()["error"]
    assert "picture" in client.post("/api/data/mask", params=query, content=b"<svg onload=alert(1)>").json()["error"]
    assert client.post("/api/data/remove_mask", json=query).status_code == 200
    assert list((images / "masks").iterdir()) == []


def test_folders_are_listed_without_those_of_runs_and_masks(images: Path, open_studio: Open) -> None:
    root = images.parent
    for folder, file in (
        ("run/previews", "0.png"),
        ("images/masks", "2.png"),
        ("20_cat", "0.png"),
        (".hidden", "0.png"),
    ):
        (root / folder).mkdir(parents=True)
        Image.new("L", (8, 8)).save(root / folder / file)
    (root / "run" / "events.jsonl").write_text("")
    rows = open_studio(root).get("/api/data/folders").json()["folders"]
    assert [(row["name"].split("/", 1)[1], row["images"], row["repeats"]) for row in rows] == [
        ("20_cat", 1, 20),
        ("images", 3, 1),
    ]


def test_more_folders_than_are_sent_at_once_are_sent_in_parts(
    images: Path, open_studio: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = images.parent
    for name in ("a", "b", "c"):
        (root / name).mkdir()
        Image.new("L", (8, 8)).save(root / name / "0.png")
    monkeypatch.setattr(data, "MOST_FOLDERS", 3)
    client = open_studio(root)
    parts = [client.get("/api/data/folders", params={"first": first}).json() for first in (0, 3, 6)]
    assert {part["count"] for part in parts} == {4}
    names = [[row["name"].split("/", 1)[1] for row in part["folders"]] for part in parts]
    assert names == [["a", "b", "c"], ["images"], []]


def test_small_pictures_are_upright_and_never_of_other_files(images: Path, open_studio: Open) -> None:
    turned = Image.new("RGB", (80, 40))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(images / "turned.jpg", exif=exif)
    client = open_studio(images)
    answer = client.get("/api/pictures/small", params={"file": "images/turned.jpg", "side": 96})
    assert answer.headers["content-type"] == "image/webp"
    with Image.open(io.BytesIO(answer.content)) as small:
        assert small.size == (40, 80)
    for name in ("images/note.md", "images/../../etc/passwd", "images/missing.png"):
        assert client.get("/api/pictures/small", params={"file": name}).status_code == 400, name
        assert client.get("/api/pictures/file", params={"file": name}).status_code == 400, name


def test_of_a_config_of_somebody_else_only_the_data_are_checked(
    images: Path, open_studio: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening the data of a run checks them by its config, which may name code to import and a base to load."""
    lines = ['plugins = ["evil"]', 'base = "evil.ckpt"', 'output = "runs/x"', 'trigger = ["mia"]', "[data]"]
    (images / "config.toml").write_text("\n".join([*lines, f'images = "{images}"', "resolution = 64"]))
    checked: list[dict] = []

    def run_json(arguments: list[str]) -> dict:
        checked.append(json.loads(Path(arguments[1]).read_text()))
        remark = {"path": str(images / "2.png"), "kind": "trigger", "text": "no trigger", "severity": "serious"}
        return {"images": [remark], "errors": [], "data": {"files": [{"unused": ["note.md"]}]}}

    monkeypatch.setattr(image_folder, "run_json", run_json)
    query = {"folder": "images", "config": "images/config.toml"}
    result = open_studio(images).get("/api/data/check", params=query).json()
    assert (result["remarks"][0]["kind"], result["unused"]) == ("trigger", ["note.md"])
    table = checked[0]
    assert table.keys() == {"base", "output", "trigger", "data"}
    assert (table["base"], table["data"]["resolution"]) == ("tiny-sd", 64)


def test_tokens_are_counted_as_the_text_encoder_does() -> None:
    from transformers import CLIPTokenizer

    from lorasmith.core.package import assets

    tokenizer = CLIPTokenizer.from_pretrained(str(assets() / "clip"))
    for caption in (
        "a photo of garp",
        "Größe, ÉTÉ  (1.5)\n l'été isn't",
        "日本語 🤖 x_y-z <lora:a:1>",
        "",
        "a" * 300,
        "12345 km²",
    ):
        expected = tokenizer(caption, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        assert count_tokens(caption) == len(expected), caption


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
