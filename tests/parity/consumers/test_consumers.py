"""Each exported kind gives training's weights in each reader that we say reads it, and does not where we say so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from matrix import FORMATS, READER_NAMES, ROWS, cells


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("row", ROWS)
def test_readers_do_what_we_say(row: str, form: str) -> None:
    found = cells(row, form)
    if isinstance(found, str):  # the format refuses the kind
        assert len(found) > 20
        return
    for name in READER_NAMES:
        cell = found[name]
        assert cell.found == cell.said, (row, form, name, cell)
        assert cell.found == "yes" or cell.why, (row, form, name)


def test_there_is_a_way_into_every_reader_for_every_kind() -> None:
    """`kohya` for user interfaces; `diff` where that is the only exact one; plain LoRA forms for diffusers."""
    for row in ("LoRA, LoCon", "LoHa", "LoKr", "LoRA, Tucker", "LoRA, alphas by layer"):
        portable = cells(row, "portable")
        assert not isinstance(portable, str), row
        assert {cell.found for cell in portable.values()} == {"yes"}, row


def test_the_page_is_current() -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "tools.compatibility", "--check"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
