"""How runs in other processes are stopped, on systems with signals and on Windows."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from lorasmith.core.lock import locked
from lorasmith.training.job_process import stop_process


class FakeProcess:
    def __init__(self) -> None:
        self.received: list[object] = []

    def kill(self) -> None:
        self.received.append("kill")

    def send_signal(self, sig: int, /) -> None:
        self.received.append(sig)


@pytest.mark.parametrize("windows", [False, True])
def test_at_once_kills(windows: bool, tmp_path: Path) -> None:
    process = FakeProcess()
    stop_process(process, tmp_path, at_once=True, windows=windows)
    assert process.received == ["kill"]


def test_a_run_gets_the_signal_of_ctrl_c(tmp_path: Path) -> None:
    process = FakeProcess()
    stop_process(process, tmp_path, windows=False)
    assert process.received == [signal.SIGINT]


def test_on_windows_a_run_gets_a_request_in_its_folder(tmp_path: Path) -> None:
    process = FakeProcess()
    with locked(tmp_path, "the run"):
        stop_process(process, tmp_path, windows=True)
    assert process.received == []
    assert (tmp_path / "control" / "stop").is_file()


def test_on_windows_a_process_that_has_not_begun_its_run_is_killed(tmp_path: Path) -> None:
    process = FakeProcess()
    stop_process(process, tmp_path, windows=True)
    assert process.received == ["kill"]
