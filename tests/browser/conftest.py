"""A studio in a process of its own, and a real browser. Without a browser these tests are skipped, with the reason."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS_TO_START = 60


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium as the system has it."""
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("NO BROWSER: install chromium, or the studio is not tested as a user sees it")
    sync_api = pytest.importorskip("playwright.sync_api", reason="NO BROWSER TESTS: pip install playwright")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


class Studio:
    """A running `lorasmith studio`."""

    def __init__(self, *folders: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lorasmith", "studio", *map(str, folders), "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stderr is not None
        match = None
        while match is None:
            line = self.process.stderr.readline()
            assert line, "the studio has ended"
            match = re.search(r"http://\S+", line)
        self.url = match[0]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def studio() -> Iterator[Callable[..., Studio]]:
    """A function that starts a studio over some folders."""
    started: list[Studio] = []

    def start(*folders: Path) -> Studio:
        started.append(Studio(*folders))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of 1280 px in a browser without cookies. Errors in its scripts, and blocked requests, fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    opened.problems = problems
    yield opened
    context.close()
    assert problems == []
