"""The page about the architecture lists what a training step executes, and that is little enough to read."""

from __future__ import annotations

import re

import pytest

from tools import step_trace

MAX_FILES, MAX_LINES = 20, 800


@pytest.fixture(scope="module")
def trace() -> step_trace.StepTrace:
    return step_trace.trace_step()


def rows_of(text: str) -> list[tuple[str, int]]:
    """Files and their numbers of lines, in the tables and in the sentences about the networks."""
    return [(name, int(count)) for name, count in re.findall(r"\[([\w/]+\.py)\]\([^)]*\)(?: \||\s)\s*(\d+)", text)]


@pytest.mark.slow
def test_the_page_lists_what_a_step_executes(trace: step_trace.StepTrace) -> None:
    """Counts may differ a little: versions of Python number the lines of long expressions differently."""
    page = step_trace.TARGET.read_text(encoding="utf-8")
    listed = rows_of(page.partition(step_trace.BEGIN)[2].partition(step_trace.END)[0])
    executed = rows_of(trace.table())
    assert executed
    assert sorted(name for name, _ in listed) == sorted(name for name, _ in executed), "run: python -m tools.step_trace"
    for (name, count), (_, page_count) in zip(sorted(executed), sorted(listed), strict=True):
        assert abs(count - page_count) <= 2 + 0.1 * count, f"{name}: run: python -m tools.step_trace"


def test_a_step_is_little_enough_to_read(trace: step_trace.StepTrace) -> None:
    step = {name: lines for name, lines in trace.cached.items() if not step_trace.is_network(name)}
    assert {"training/step/loop.py", "training/step/objectives/denoising.py"} <= step.keys()
    assert len(step) <= MAX_FILES, sorted(step)
    assert sum(map(len, step.values())) <= MAX_LINES


def test_without_a_cache_a_step_reads_the_image(trace: step_trace.StepTrace) -> None:
    assert "data/images.py" in trace.uncached
    assert "data/images.py" not in trace.cached
    assert any(name.endswith("vae.py") for name in trace.uncached)
