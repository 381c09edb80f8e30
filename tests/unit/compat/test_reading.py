"""TOML as people write it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from lorasmith.compat.kohya.reading import flatten_sections, read_file, remove_repetitions
from lorasmith.core.errors import LorasmithError


def test_the_last_of_equal_keys_counts_and_sections_join(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        'x = 1\n[s]\nr = "512"\nlist = [\n "a", # one\n "b",\n]\nr = "768"\n[t]\ny = 2\n[s]\nlate = """\nz = 1\n"""\n'
    )
    assert read_file(path) == {"x": 1, "s": {"r": "768", "list": ["a", "b"], "late": "z = 1\n"}, "t": {"y": 2}}


@pytest.mark.parametrize(
    "text", ["a = 1\n[b]\nc = [1,\n2]\n", '[[d]]\nx = 1\n[[d.e]]\ny = 1\n[[d]]\nx = 2\n[g]\nk = "[v]"\n']
)
def test_what_is_right_stays(text: str) -> None:
    assert tomllib.loads(remove_repetitions(text)) == tomllib.loads(text)


def test_the_suffix_may_be_missing_and_a_mark_stand_first(tmp_path: Path) -> None:
    (tmp_path / "a.b.toml").write_bytes(b"\xef\xbb\xbfx = 1")
    assert read_file(tmp_path / "a.b") == {"x": 1}
    with pytest.raises(LorasmithError, match="no such file"):
        read_file(tmp_path / "c")


def test_an_error_says_where_and_helps_with_windows_paths(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('x = 1\np = "C:\\Users\\me"\n')
    with pytest.raises(LorasmithError, match=r"line 2(.|\n)*single quotes"):
        read_file(path)


def test_sections_have_no_meaning() -> None:
    values, warnings = flatten_sections({"a": 1, "s": {"a": 2, "b": {"c": 1}}, "t": {"d": 3}})
    assert values == {"a": 2, "d": 3}
    assert "s.b" in warnings[0]


@pytest.mark.parametrize("content", ["[]", "null", "1.5", '"text"', "[{}]"])
def test_a_file_that_is_no_table(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(LorasmithError, match=r"a\.json: not what it should hold: .* in place of a table"):
        read_file(path)


def test_a_value_without_end_is_found_at_once(tmp_path: Path) -> None:
    """Thousands of lines behind it are not each tried as its last one."""
    path = tmp_path / "a.toml"
    path.write_text("x = 1\nx = 2\n" + "\n".join(f"key{i} = [ # ]" for i in range(20_000)))
    with pytest.raises(LorasmithError, match=r"a\.toml: not valid TOML: .*line 2"):
        read_file(path)
