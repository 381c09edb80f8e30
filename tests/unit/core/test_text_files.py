"""Configs as editors and shells save them: encodings, syntax errors, Windows paths."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from lorasmith.core.config import read_table, validate
from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.core.registry import Config
from lorasmith.core.text_files import printable, read_text

TEXT = 'trigger = ["caf\u00e9"]\r\nsteps = 2\r\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_encoding_with_a_mark_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(TEXT.encode(encoding))
    assert read_table(path) == {"trigger": ["caf\u00e9"], "steps": 2}


@pytest.mark.parametrize("order", ["utf-16-be", "utf-32-be"])
def test_big_endian_text_is_read(tmp_path: Path, order: str) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(("\ufeff" + TEXT).encode(order))
    assert read_table(path)["steps"] == 2


@pytest.mark.parametrize("content", [TEXT.encode("cp1252"), b"\x89PNG\r\n\x1a\n", TEXT.encode("utf-16")[:-1]])
def test_other_encodings_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(LorasmithError, match=r"a\.toml: not UTF-8 text \(byte \d+ .*save it as UTF-8"):
        read_table(path)


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(LorasmithError, match="is a folder"):
        read_text(tmp_path)
    with pytest.raises(LorasmithError, match="no such file"):
        read_text(tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ('output = "C:\\Users\\mia"', "Windows paths"),
        ("output = \u201cruns/mia\u201d", "straight ones"),
        ("data.cache_latents = True", "true and false"),
        ("base: tiny-sd", "key = value"),
        ("output = runs/mia", "in quotes"),
        ("steps = 3\nsteps = 4", "twice"),
        ("[data]\n[data]", "twice"),
    ],
)
def test_a_refused_line_is_shown_with_advice(tmp_path: Path, line: str, advice: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f"seed = 1\n{line}\n", encoding="utf-8")
    with pytest.raises(LorasmithError) as raised:
        read_table(path)
    assert advice in str(raised.value)
    assert line.splitlines()[-1] in str(raised.value)


@pytest.mark.parametrize("name", ["a.toml", "a.json"])
def test_brackets_without_end_are_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(("" if name.endswith("json") else "a = ") + "[" * 100_000)
    with pytest.raises(LorasmithError, match="too many brackets"):
        read_table(path)


def test_yaml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    path.write_text("base: x\n")
    with pytest.raises(LorasmithError, match="YAML"):
        read_table(path)


class Places(Config):
    base: str = ""
    images: Path = Path()
    prompts: tuple[str, ...] = ()
    folders: dict[str, Path] = Field(default_factory=dict)


def test_escapes_in_a_windows_path_are_found() -> None:
    """`"C:\\temp\\new"` is valid TOML: a path with a tab and a line break."""
    table = {"base": "C:\temp", "images": "data\new", "folders": {"mia": "C:\fold"}}
    with pytest.raises(ConfigError, match="single quotes") as raised:
        validate(Places, table)
    assert [problem.where for problem in raised.value.problems] == ["base", "images", "folders.mia"]


def test_a_line_break_in_a_prompt_and_an_existing_folder_are_allowed(tmp_path: Path) -> None:
    odd = tmp_path / "a\tb"
    odd.mkdir()
    assert validate(Places, {"images": str(odd), "prompts": ["a cat,\non a mat"]}).images == odd


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.json", "9" * 5000, "not valid JSON: .*digits"),
        ("a.toml", "a = " + "9" * 5000, "not valid TOML: .*digits"),
        ("a.json", '{"a": ["\\ud800"]}', r"a\.json: a\.0: has half of a UTF-16 pair \(U\+D800\)"),
        ("a.json", '{"\\udc00": 1}', "half of a UTF-16 pair"),
        ("a.json", "[" * 70 + "]" * 70, "more than 60 tables or lists"),
        ("a.toml", "a = " + "[" * 70 + "]" * 70, "more than 60 tables or lists"),
        ("a.toml", ".".join("a" * 70) + " = 1", "more than 60 tables or lists"),
        ("a.json", '{"steps": 1, "seed": 2, "steps": 3}', 'the key "steps" is in the same object twice'),
        ("a.toml", "#" * 2_000_001, "2,000,001 characters are too many for a TOML file"),
    ],
)
def test_values_that_nobody_means_are_refused(tmp_path: Path, name: str, text: str, reason: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LorasmithError, match=reason):
        read_table(path)


def test_a_file_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.symlink_to("/dev/zero")
    with pytest.raises(LorasmithError, match="more than 64 MiB"):
        read_table(path)


def test_texts_that_cannot_be_written_are_problems() -> None:
    """An argument in Latin-1 on a command line in UTF-8 reaches Python as half of a pair."""
    with pytest.raises(ConfigError) as raised:
        validate(Places, {"base": "caf\udce9", "images": "\udce9", "prompts": ["\ud83d"]})
    problems = {problem.where: problem.found for problem in raised.value.problems}
    assert problems.keys() == {"base", "images", "prompts.0"}
    assert "byte 0xe9" in problems["base"]
    assert "U+D83D" in problems["prompts.0"]


def test_a_path_with_nul_is_a_problem() -> None:
    with pytest.raises(ConfigError, match="images"):
        validate(Places, {"images": "a\0b"})


def test_control_characters_are_written_out() -> None:
    assert printable("a\x1b[31m\tb\nc\r\x9b\u202e") == "a\\x1b[31m\tb\nc\\r\\x9b\\u202e"
