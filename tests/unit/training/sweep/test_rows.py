"""Rows of a sweep: each changes several settings, and its LoRA has a name that people can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorasmith.core.errors import LorasmithError
from lorasmith.training.config import load_config
from lorasmith.training.sweep.axes import label, parse_axes
from lorasmith.training.sweep.rows import read_rows
from lorasmith.training.sweep.sweep import SweepSettings, make_plan, sweep

CSV = "name,trigger,data.images\nmia,mia,photos/mia\nbob,bob,photos/bob\n"
TOML = """
[[rows]]
name = "mia"
trigger = ["mia"]
data.images = "photos/mia"
[[rows]]
name = "bob"
trigger = ["bob"]
data.images = "photos/bob"
"""
CONFIG: dict[str, Any] = {"base": "tiny-sd", "output": "out", "steps": 1, "data": {"images": "x"}}


@pytest.mark.parametrize(
    ("file", "content"),
    [("a.csv", CSV), ("a.csv", CSV.replace(",", ";")), ("a.csv", "\ufeff" + CSV), ("a.toml", TOML)],
)
def test_each_row_has_its_own_folder_trigger_and_name(tmp_path: Path, file: str, content: str) -> None:
    path = tmp_path / file
    path.write_text(content, encoding="utf-8")
    rows = read_rows(path)
    settings = SweepSettings(CONFIG, (), tmp_path / "sweep", rows=path)
    plan = make_plan(settings, [], rows, load_config(CONFIG))
    found = [
        (job.folder.name, job.config.file_name, job.config.trigger, str(job.config.data.sources[0].images))
        for job in plan.jobs
    ]
    assert found == [("mia", "mia", ("mia",), "photos/mia"), ("bob", "bob", ("bob",), "photos/bob")]


def test_rows_are_run_with_every_combination(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(CSV)
    settings = SweepSettings(CONFIG, ("adapter.rank=2,4",), tmp_path / "sweep", rows=path)
    plan = make_plan(settings, parse_axes(settings.over), read_rows(path), load_config(CONFIG))
    ranks: list[Any] = [(job.config.trigger, getattr(job.config.adapter, "rank", 0)) for job in plan.jobs]
    assert ranks == [(("mia",), 2), (("mia",), 4), (("bob",), 2), (("bob",), 4)]
    assert len({job.folder for job in plan.jobs}) == 4


def test_empty_cells_leave_the_setting_of_the_config(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("name,adapter.rank\nmia,8\nbob,\n")
    assert read_rows(path) == [{"name": "mia", "adapter.rank": "8"}, {"name": "bob"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no rows"),
        ("name,trigger\n", "no rows"),
        ("name\nmia\nmia\n", "two rows have the name mia"),
        ("name\nmia,bob\n", "line 2 has 2 cells for 1 keys"),
    ],
)
def test_a_faulty_table_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(LorasmithError, match=message):
        read_rows(path)


def test_a_run_is_called_by_its_name() -> None:
    values = {"name": "mia", "data.images": "photos/a/very/long/folder", "adapter.rank": "4"}
    assert label(values) == "mia  rank 4"
    assert label({"name": "mia"}) == "mia"


def test_rows_may_end_in_a_carriage_return_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"name,adapter.rank\r\nmia,4\rbob,8\n")
    assert [row["name"] for row in read_rows(file)] == ["mia", "bob"]


@pytest.mark.parametrize(
    "settings",
    [
        SweepSettings(CONFIG, ("steps=1,2",), Path("sweep"), overrides=("output=elsewhere",)),
        SweepSettings(CONFIG, ("output=a,b",), Path("sweep")),
    ],
)
def test_a_folder_for_the_runs_is_refused_instead_of_ignored(settings: SweepSettings) -> None:
    with pytest.raises(LorasmithError, match=r"^output(=elsewhere)?: the runs of a sweep .* --out FOLDER"):
        sweep(settings)


def test_a_folder_for_the_runs_is_refused_in_every_row_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[[rows]]\nsteps = 1\n[[rows]]\nsteps = 2\noutput = "elsewhere"\n', encoding="utf-8")
    with pytest.raises(LorasmithError, match="the runs of a sweep"):
        sweep(SweepSettings(CONFIG, (), tmp_path / "sweep", rows=path))
