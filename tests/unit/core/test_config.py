"""TOML out and in again, overrides, errors with lines."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorasmith.core.config import override, read_table, to_toml, validate
from lorasmith.core.errors import ConfigError, LorasmithError, nearest
from lorasmith.core.registry import Config

plain = st.one_of(st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False), st.text(max_size=8))
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=4), inner, max_size=3),
)


@given(st.dictionaries(st.text(min_size=1, max_size=5), values, max_size=4))
def test_what_is_written_is_read_again(table: dict) -> None:
    assert tomllib.loads(to_toml(table)) == table


def test_none_is_left_out_and_paths_are_text() -> None:
    assert tomllib.loads(to_toml({"a": None, "b": {"c": None, "d": Path("x/y")}})) == {"b": {"d": "x/y"}}


def test_overrides_reach_into_tables_and_lists() -> None:
    table = {"adapter": {"rank": 4}, "data": {"subsets": [{"repeats": 1}]}}
    result = override(table, ["adapter.rank=8", "data.subsets.0.repeats=3", "base=some folder/x", "text.clip_skip=2"])
    assert result["adapter"]["rank"] == 8
    assert result["data"]["subsets"][0]["repeats"] == 3
    assert result["base"] == "some folder/x"
    assert result["text"] == {"clip_skip": 2}
    assert table["adapter"]["rank"] == 4


def test_an_override_without_a_sign_says_how_to_write_one() -> None:
    with pytest.raises(LorasmithError, match="key=value"):
        override({}, ["adapter.rank"])


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("a = 1\nb = = 2\n")
    with pytest.raises(LorasmithError, match=r"x\.toml.*line 2"):
        read_table(path)


def test_the_nearest_word() -> None:
    assert nearest("learnin_rate", ["learning_rate", "rank"]) == "learning_rate"
    assert nearest("zzz", ["learning_rate", "rank"]) is None


def test_what_fits_no_alternative_is_one_problem_at_the_key_itself() -> None:
    class Data(Config):
        size: int | tuple[int, int] = 1

    class Whole(Config):
        data: Data = Data()
        parts: tuple[Data, ...] = ()

    with pytest.raises(ConfigError) as raised:
        validate(Whole, {"data": {"size": "ten"}, "parts": [{}, {"size": -1, "sice": 3}, {"size": "x"}]})
    assert [p.where for p in raised.value.problems] == ["data.size", "parts.1.sice", "parts.2.size"]
    assert "integer" in raised.value.problems[0].allowed
    assert "tuple" in raised.value.problems[0].allowed
