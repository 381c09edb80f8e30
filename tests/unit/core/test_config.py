"""TOML out and in again, overrides, errors with lines."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import model_validator

from lorasmith.core.config import override, read_table, to_toml, validate
from lorasmith.core.errors import ConfigError, LorasmithError, Problem, nearest
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


class Data(Config):
    size: int | tuple[int, int] = 1


class Whole(Config):
    data: Data = Data()
    parts: tuple[Data, ...] = ()


def test_what_fits_no_alternative_is_one_problem_at_the_key_itself() -> None:
    with pytest.raises(ConfigError) as raised:
        validate(Whole, {"data": {"size": "ten"}, "parts": [{}, {"size": -1, "sice": 3}, {"size": "x"}]})
    assert [p.where for p in raised.value.problems] == ["data.size", "parts.1.sice", "parts.2.size"]
    assert raised.value.problems[0].allowed == "a whole number; or: a list in brackets"


class Inner(Config):
    resolution: int = 512
    mode: Literal["nearest", "bilinear"] = "nearest"


class Outer(Config):
    data: Inner = Inner()
    steps: int = 1

    @model_validator(mode="after")
    def _not_seven(self) -> Outer:
        if self.steps == 7:
            raise ValueError("seven steps are not allowed")
        return self


def problems_of_table(table: dict[str, Any]) -> list[Problem]:
    with pytest.raises(ConfigError) as raised:
        validate(Outer, table)
    return raised.value.problems


def test_the_keys_of_a_table_are_listed_once() -> None:
    found = problems_of_table({"zzz": 1, "qqq": 2, "stepps": 3})
    assert [problem.allowed for problem in found] == ["data, steps", "", ""]
    assert found[2].remedy == 'did you mean "steps"?'


def test_a_key_in_the_wrong_table_is_given_its_place() -> None:
    (found,) = problems_of_table({"resolution": 128})
    assert (found.where, found.remedy, found.allowed) == ("resolution", "write data.resolution", "")


def test_a_table_is_not_repeated_in_a_message() -> None:
    (found,) = problems_of_table({"steps": 7, "data": {"resolution": 64}})
    assert str(found) == "seven steps are not allowed"
    (found,) = problems_of_table({"steps": {"a": 1}})
    assert str(found) == "steps: found a table\n    allowed: a whole number"


def test_a_name_that_is_nearly_right_is_proposed() -> None:
    (found,) = problems_of_table({"data": {"mode": "biliner"}})
    assert found == Problem("data.mode", 'found "biliner"', "'nearest' or 'bilinear'", 'did you mean "bilinear"?')


@pytest.mark.parametrize("key", ["data.subsets.7.repeats", "data.subsets.x.repeats", "data.subsets.-1", "list.2"])
def test_an_override_of_an_item_that_is_not_there_is_an_error(key: str) -> None:
    with pytest.raises(LorasmithError, match="does not name an item of a list; the list has 1"):
        override({"data": {"subsets": [{}]}, "list": [1]}, [f"{key}=3"])


def test_an_override_below_a_value_is_an_error() -> None:
    with pytest.raises(LorasmithError, match='"rank" holds a plain value'):
        override({"adapter": {"rank": 4}}, ["adapter.rank.x=3"])
