"""Metadata files of other programs: names of images that cannot be one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorasmith.core.errors import Problem
from lorasmith.data.metadata import read_kohya_metadata


@pytest.mark.parametrize("name", ["/", "", ".", "..", "\\", "a/", "missing", "/missing.png"])
def test_a_name_that_is_no_image_is_a_problem_and_not_an_error_of_python(name: str, tmp_path: Path) -> None:
    file = tmp_path / "meta.json"
    file.write_text(json.dumps({name: {"caption": "x"}}))
    (tmp_path / "a").mkdir()
    problems: list[Problem] = []
    assert read_kohya_metadata(file, tmp_path, problems) == []
    assert len(problems) == 1
    assert f'the image "{name}" does not exist' in str(problems[0])
