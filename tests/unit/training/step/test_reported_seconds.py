"""The time of steps that a run reports to who listens to its progress."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lorasmith.core.progress import Progress
from lorasmith.training.config import load_config
from lorasmith.training.session import train


class Seconds(Progress):
    """Keeps the units and the seconds of each call of a timed task."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, float]] = []

    @contextmanager
    def track_timed(self, description: str, total: int) -> Generator[Callable[[int, float, str], None], None, None]:
        yield lambda units, seconds, note: self.calls.append((units, seconds))


class Units(Progress):
    """A listener that knows `track` alone."""

    def __init__(self) -> None:
        self.units: dict[str, int] = {}

    @contextmanager
    def track(self, description: str, total: int) -> Generator[Callable[[int, str], None], None, None]:
        def advance(units: int, note: str) -> None:
            self.units[description] = self.units.get(description, 0) + units

        yield advance


@pytest.fixture
def table(random_base: Callable[..., Path], pictures: Callable[..., Path], tmp_path: Path) -> dict[str, object]:
    return {
        "base": str(random_base("sd1")),
        "output": str(tmp_path / "run"),
        "steps": 3,
        "trigger": "garp",
        "data": {"images": str(pictures(2)), "resolution": 64},
        "adapter": {"rank": 2},
        "preview": {"prompts": ["garp"], "every_steps": 1, "steps": 1, "width": 64, "height": 64},
    }


def test_only_the_time_in_steps_is_reported_and_none_of_previews(table: dict[str, object]) -> None:
    progress = Seconds()
    result = train(load_config(table), progress, accept_remarks=True)
    assert [units for units, _ in progress.calls] == [0, 1, 1, 1]
    # the log looks for unread numbers once more at the end
    reported = sum(seconds for _, seconds in progress.calls)
    assert 0 < reported <= result.seconds + 1e-6


@pytest.mark.slow
def test_a_listener_without_timed_tasks_still_gets_the_steps(table: dict[str, object]) -> None:
    progress = Units()
    train(load_config(table), progress, accept_remarks=True)
    assert progress.units["training"] == 3
