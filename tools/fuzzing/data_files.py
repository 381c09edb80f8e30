"""Data folders with damaged pictures, and with captions that nobody means."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tools.fuzzing.guard import Case
from tools.fuzzing.material import Material
from tools.fuzzing.values import SURROGATES, Draw, damaged, damaged_bytes, texts

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "shift-jis")
CAPTION_PARTS = (
    "a photo of garp", "garp", ", ", " ", "(hat:1.3)", "((", "))", "[", "]", "\\(", "\\", ":", "{a|b}", "{", "|",
    "{2$$a|b}", "<disc>", "BREAK", "AND", "\n", "\r\n", "\t", "\0", "🦊", "é", "e\u0301", "\u202e", "\x1b[31m", "ﷺ",
    "a" * 600, "hat, " * 100, "__hat__", '"', ",,,", "(a:nan)", "(a:1e308)", "(((((((((((((((((((((((((((((((a",
    "{{{{{{a|b}|c}|d}", "|||", "#", "--n", "<lora:x:1>", "\ufeff", "\x85",
)  # fmt: skip
TRANSFORMS: tuple[Any, ...] = (
    "shuffle", "tag_dropout", "caption_dropout", "wildcard", "tag_warmup",
    {"kind": "template", "templates": ["a {}"]}, {"kind": "replace", "replacements": {"garp": "x"}}, "flip",
    "random_crop", "color", "face_crop", "letterbox",
)  # fmt: skip


def picture_case(draw: Draw, folder: Path, material: Material) -> Case:
    """A folder with one damaged picture, and one that is as it should be."""
    images = folder / "images"
    shutil.copytree(material.images, images)
    name = draw(st.sampled_from(sorted(material.pictures)))
    data = material.pictures[name]
    if draw(st.integers(0, 9)):
        data = damaged_bytes(draw, data)
    suffix = name.split(":")[0]
    if draw(st.integers(0, 9)) == 0:
        suffix = draw(st.sampled_from(["png", "jpg", "txt", "safetensors", "jxl", "PNG", "psd", "svg"]))
    (images / f"a.{suffix}").write_bytes(data)
    (images / "a.txt").write_text("garp", encoding="utf-8")
    need = 96 << 20
    command = draw(st.sampled_from(["check", "check", "check", "check", "pictures", "masks", "masked"]))
    if command == "masks":
        return Case(("masks", "images", "--from", draw(st.sampled_from(["alpha", "color"])), "-o", "out"), need)
    table = material.config
    table["data"]["images"] = "images"
    if command == "masked":
        shutil.copytree(images, folder / "masks")
        table["data"]["masks"] = "masks"
    (folder / "c.json").write_text(json.dumps(table), encoding="utf-8")
    more = ("--pictures", "p.jpg") if command == "pictures" else ()
    return Case(("check", "c.json", *more), need, 2.0 if more else 0.0)


def captions() -> st.SearchStrategy[str]:
    """Captions of pieces that mean something to a part of the program."""
    part = st.one_of(st.sampled_from(CAPTION_PARTS), texts())
    return st.lists(part, max_size=8).map("".join)


def caption_bytes(draw: Draw) -> bytes:
    """A caption as a file, in any encoding, or none."""
    text = draw(captions())
    data = text.encode(draw(st.sampled_from(ENCODINGS)), errors="replace")
    return damaged_bytes(draw, data) if data and draw(st.integers(0, 5)) == 0 else data


def caption_case(draw: Draw, folder: Path, material: Material) -> Case:
    """Captions beside images, in tables, and as prompts."""
    images = folder / "images"
    shutil.copytree(material.images, images)
    table = material.config
    table["data"]["images"] = "images"
    way = draw(st.sampled_from(["files", "files", "files", "table", "json", "prompts"]))
    if way == "prompts":
        return prompts_case(draw, folder, material)
    if way == "files":
        for i in range(3):
            suffix = draw(st.sampled_from([".txt", ".txt", ".TXT", ".caption", ".png.txt"]))
            (images / f"{i}.txt").unlink()
            (images / f"{i}{suffix}").write_bytes(caption_bytes(draw))
    elif way == "table":
        write_table(draw, images)
    else:
        rows: Any = {f"{i}.png": {"caption": draw(captions()), "tags": draw(captions())} for i in range(3)}
        (folder / "meta.json").write_text(json.dumps(damaged(draw, rows)), encoding="utf-8")
        table["data"]["metadata"] = "meta.json"
    table["data"]["transforms"] = draw(st.lists(st.sampled_from(TRANSFORMS), max_size=2))
    table["text"] = {"weighted": draw(st.booleans()), "max_tokens": draw(st.sampled_from([75, 225]))}
    (folder / "c.json").write_text(json.dumps(table), encoding="utf-8")
    rare = draw(st.integers(0, 19))
    if rare == 0:
        return Case(("train", "c.json", "steps=1", "--yes"), 256 << 20, 8.0)
    more = ("--pictures", "p.jpg") if rare == 1 else ()
    return Case(("check", "c.json", *more), 64 << 20, 2.0 if more else 0.0)


def write_table(draw: Draw, images: Path) -> None:
    """`metadata.jsonl` or `.csv` with damaged rows."""
    rows = [{"file_name": f"{i}.png", "text": draw(captions())} for i in range(3)]
    if draw(st.booleans()):
        lines = [json.dumps(damaged(draw, row)) for row in rows]
        data = "\n".join(lines).encode("utf-8", errors="replace")
        (images / "metadata.jsonl").write_bytes(damaged_bytes(draw, data) if draw(st.booleans()) else data)
        return
    cells = [f'{row["file_name"]},"{row["text"]}"' for row in rows]
    text = "\n".join(["file_name,text", *cells])
    (images / "metadata.csv").write_bytes(text.encode(draw(st.sampled_from(ENCODINGS)), errors="replace"))


def prompts_case(draw: Draw, folder: Path, material: Material) -> Case:
    """A file of prompts, or prompts on the command line, for one step of sampling."""
    options = (
        "--n bad",
        "--d 7",
        "--w 64",
        "--h 1e9",
        "--s x",
        "--l nan",
        "--zz 1",
        "--",
        "--d -1",
        "--w 99999999",
        "",
    )
    lines = [f"{draw(captions())} {draw(st.sampled_from(options))}" for _ in range(2)]
    name = draw(st.sampled_from(["p.txt", "p.toml", "p.json"]))
    text = "\n".join(lines)
    if name != "p.txt":
        table = {"prompt": {"width": 64, "subset": [{"prompt": line} for line in lines]}}
        changed = damaged(draw, table)
        text = (
            json.dumps(changed) if name == "p.json" else "\n".join(f"prompt = {json.dumps(line)}" for line in lines[:1])
        )
    (folder / name).write_text(text, encoding="utf-8", errors="replace")
    prompt = draw(st.one_of(captions(), st.sampled_from(SURROGATES))).replace("\0", "")
    if draw(st.booleans()) and prompt and not prompt.startswith("-"):
        return Case(("sample", "--base", "tiny-sd", "-p", prompt, "--steps", "1", "-o", "out"), 256 << 20, 6.0)
    return Case(("sample", "--base", "tiny-sd", "--prompts", name, "--steps", "1", "-o", "out"), 256 << 20, 8.0)
