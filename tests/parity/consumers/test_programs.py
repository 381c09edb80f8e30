"""What we say of a file is what A1111, Forge and ComfyUI did with it.

`programs.json` was written by `python -m tools.real_loaders` from runs of the programs' own loaders (A1111 1.10.1,
Forge of June 2025, ComfyUI of October 2025) on these files.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from program_cases import FAMILIES, cases_of, rows, write_case

from lorasmith.formats.consumers import reader_support
from lorasmith.formats.read import load
from lorasmith.formats.survey import Survey

EFFECTS = ("yes", "partly", "wrong", "no")


@cache
def table() -> Any:
    """Program, family, row and format to what the program did."""
    return json.loads(Path(__file__).with_name("programs.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


@pytest.mark.slow_except("*-sd1", "*-sdxl")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("row", rows())
def test_we_say_what_the_programs_did(row: str, family: str, bases: Path, tmp_path: Path) -> None:
    for case in cases_of(bases, family, row):
        said = reader_support(Survey(load(write_case(case, tmp_path / "lora.safetensors"))))
        for program, families in table().items():
            did = families[family][row][case.form]
            assert said[program]["loads"] == did["loads"], (program, case.form, said[program], did)


def test_the_table_has_every_program_and_effect() -> None:
    cells = [cell for families in table().values() for rows_ in families.values() for forms in rows_.values()
             for cell in forms.values()]  # fmt: skip
    assert set(table()) == {"A1111", "Forge", "ComfyUI"}
    assert {cell["loads"] for cell in cells} == set(EFFECTS)
