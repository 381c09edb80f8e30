"""Values of a sweep: how they are read, combined and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorasmith.core.errors import LorasmithError
from lorasmith.training.config import load_config
from lorasmith.training.job_process import last_error
from lorasmith.training.sweep.axes import (
    Axis,
    combinations,
    folder_name,
    label,
    parse_axes,
    parse_axis,
    shorten_keys,
    split_at_commas,
)
from lorasmith.training.sweep.jobs import differing_keys


def test_values_may_hold_commas_in_brackets_and_quotes() -> None:
    assert split_at_commas('[0.9, 0.99],"a,b",{x = 1, y = 2},c') == ["[0.9, 0.99]", '"a,b"', "{x = 1, y = 2}", "c"]
    assert parse_axis("optimizer.betas=[0.9,0.99],[0.9,0.999]").values == ("[0.9,0.99]", "[0.9,0.999]")


def test_ranges() -> None:
    lr, rank, drop = (
        parse_axis("optimizer.lr=1e-5..1e-3"),
        parse_axis("adapter.rank=2..8"),
        parse_axis("adapter.dropout=0.1..0.25"),
    )
    assert (lr.span, lr.integers, lr.logarithmic) == ((1e-5, 1e-3), False, True)
    assert (rank.span, rank.integers, rank.logarithmic) == ((2, 8), True, False)
    assert (drop.span, drop.logarithmic) == ((0.1, 0.25), False)
    assert parse_axis('data.images="../photos","../others"').span is None


@pytest.mark.parametrize(
    "text", ["adapter.rank", "adapter.rank=", "=4,8", "adapter.rank=4,,8", "adapter.rank=4,4", "lr=2..1", "lr=a..b"]
)
def test_mistakes_name_the_option(text: str) -> None:
    with pytest.raises(LorasmithError, match="--over"):
        parse_axis(text)


def test_a_key_comes_once_and_something_varies() -> None:
    for texts in ([], ["a=1,2", "a=3"]):
        with pytest.raises(LorasmithError, match="--over"):
            parse_axes(texts)


def test_all_combinations_in_order() -> None:
    found = combinations(parse_axes(["a.rank=4,8", "b.lr=1,2,3"]))
    assert [tuple(v.values()) for v in found] == [(r, v) for r in "48" for v in "123"]
    with pytest.raises(LorasmithError, match="--search"):
        combinations([Axis("a", span=(1, 2))])


def test_names_are_of_the_values_alone_and_never_meet() -> None:
    values = [{"a.b": v} for v in ("1", "1.0", "1/0", '"1/0"', "[1, 0]", "[1,0]", "x" * 300, "x" * 301, "..", "ä", "é")]
    names = [folder_name(v) for v in values]
    assert len({n.lower() for n in names}) == len(values)
    for n in names:
        assert len(n) <= 100
        assert Path(n).name == n
    assert folder_name({"adapter.rank": "8", "optimizer.lr": "1e-4"}) == "adapter.rank-8_optimizer.lr-1e-4"


def test_keys_are_shortened_as_far_as_they_differ() -> None:
    assert shorten_keys(["adapter.rank", "optimizer.lr"]) == ["rank", "lr"]
    assert shorten_keys(["adapter.kind", "optimizer.kind"]) == ["adapter.kind", "optimizer.kind"]
    assert label({"adapter.rank": "8", "optimizer.lr": "1e-4"}) == "rank 8  lr 1e-4"


def test_differences_are_those_that_change_what_comes_out(tmp_path: Path) -> None:
    table = {"base": "tiny-sd", "output": str(tmp_path), "data": {"images": str(tmp_path)}}
    one = load_config(table)
    assert differing_keys(one, load_config(table | {"output": "elsewhere", "device": "cuda:1", "threads": 3})) == []
    assert differing_keys(one, load_config(table | {"steps": 9, "adapter": {"rank": 2}})) == ["adapter.rank", "steps"]


def test_the_last_error_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert last_error(log, 9) == "exit code 9"
    log.write_text("error: first\nerror: 1 problem in the data:\n  nowhere: no such folder\n")
    assert last_error(log, 1) == "1 problem in the data: nowhere: no such folder"
    log.write_text("Traceback\nMemoryError\n")
    assert last_error(log, 70) == "MemoryError"
