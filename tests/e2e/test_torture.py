"""The short form of `make torture`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.torture.session import torture


@pytest.mark.slow
def test_interrupted_and_starved_runs_lose_nothing(tmp_path: Path) -> None:
    tally = torture(tmp_path, 4, 1, ["ema", "states"], ["full disk", "damaged checkpoint and cache", "two processes"])
    assert tally.problems == []
    assert (tally.survived, tally.exact) == (tally.injected, tally.tried) == (7, 7)
