"""Runs and data as a user sees them, in a real browser."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lorasmith.core.lock import find_holder
from tests.browser.conftest import Studio
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
Start = Callable[..., Studio]
HOSTILE = "<img src=x onerror=\"document.title='broken in'\"><script>document.title='broken in'</script>"


def add_steps(run: Path, first: int, last: int) -> None:
    with (run / "events.jsonl").open("a") as file:
        for number in range(first, last + 1):
            step = {"event": "step", "step": number, "epoch": 0, "loss": 1 / number, "grad_norm": 0.1}
            file.write(json.dumps({**step, "lr": {"unet": 1e-3}, "seconds": number / 2, "samples": number}) + "\n")


def make_run(folder: Path, name: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_text('{"event": "start", "step": 0, "id": "1"}\n')
    summary = {"name": name or folder.name, "length": {"steps": 100}, "base": {"source": "tiny-sd"}}
    (folder / "summary.json").write_text(json.dumps(summary))
    add_steps(folder, 1, 20)
    return folder


def make_images(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        Image.new("RGB", (96, 64), (i % 256, 60, 90)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"garp, number {i}\n")
    return folder


def test_runs_are_listed_and_go_on_before_the_eyes(tmp_path: Path, studio: Start, page: Any) -> None:
    for i in range(200):
        make_run(tmp_path / "runs" / f"run-{i:03d}")
    hostile = make_run(tmp_path / "runs" / "hostile", HOSTILE)
    page.goto(studio(tmp_path / "runs").url)
    page.get_by_label("Find a run").fill("hostile")
    page.get_by_text(HOSTILE).click()
    page.wait_for_url("**/#/run?run=runs%2Fhostile")
    page.get_by_text("20 / 100").wait_for()
    assert "token" not in page.url

    # another process writes on; the page follows by itself
    add_steps(hostile, 21, 60)
    page.get_by_text("60 / 100").wait_for()
    chart = page.get_by_role("img", name="Loss; arrow keys show values")

    def last_value_is_shown() -> bool:
        chart.press("ArrowRight")
        return page.get_by_text("step 60: each step 0.0167").count() > 0

    wait_until(last_value_is_shown)
    assert page.title() == "Run: Lorasmith studio"


def test_a_run_of_a_terminal_is_watched_stopped_and_resumed(tmp_path: Path, studio: Start, page: Any) -> None:
    run = tmp_path / "runs" / "garp"
    config = {
        "base": "tiny-sd",
        "output": str(run),
        "steps": 400,
        "trigger": "garp",
        "data": {"images": str(make_images(tmp_path / "images", 3)), "resolution": 128},
        "preview": {"prompts": ["garp"], "steps": 2},
        "log": {"tensorboard": False},
    }
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    (tmp_path / "runs").mkdir()
    command = [sys.executable, "-m", "lorasmith", "train", str(file), "--yes"]
    in_terminal = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: (run / "events.jsonl").is_file())
        first = studio(tmp_path / "runs")
        page.goto(first.url)
        page.locator("a.run").click()
        page.get_by_role("button", name="Preview now").click()
        page.get_by_role("heading", name="Previews").wait_for(timeout=60_000)
        page.get_by_role("button", name="Export now").click()
        page.get_by_text("garp-0").first.wait_for(timeout=60_000)

        page.get_by_role("button", name="Stop").click()
        page.get_by_role("button", name="Resume").wait_for(timeout=60_000)
        assert in_terminal.wait(60) == 130
        page.get_by_role("button", name="Resume").click()
        number = wait_until(lambda: find_holder(run))
        page.get_by_role("button", name="Stop").wait_for(timeout=60_000)

        # the studio dies, and the run does not notice
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        size = (run / "events.jsonl").stat().st_size
        wait_until(lambda: (run / "events.jsonl").stat().st_size > size or find_holder(run) is None)
        assert find_holder(run) in (number, None)
        page.goto("about:blank")
        page.problems.clear()  # the connection was lost
        page.goto(studio(tmp_path / "runs").url)
        page.locator("a.run").click()
        wait_until(lambda: page.get_by_text("finished").count() or page.get_by_role("button", name="Stop").is_visible())
        assert '"event": "resume"' in (run / "events.jsonl").read_text()
    finally:
        for number in (in_terminal.pid if in_terminal.poll() is None else None, find_holder(run)):
            if number is not None:
                os.kill(number, signal.SIGKILL)


def test_captions_are_edited_undone_and_replaced(tmp_path: Path, studio: Start, page: Any) -> None:
    images = make_images(tmp_path / "images", 3)
    (images / "2.txt").write_text(HOSTILE)
    page.goto(studio(images).url)
    page.get_by_role("link", name="Data").click()
    page.locator("a.folder").click()

    # with the keyboard alone
    caption = page.get_by_label("Caption of 1.png")
    caption.focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("garp on a beach")
    page.keyboard.press("Control+Enter")
    wait_until(lambda: (images / "1.txt").read_text() == "garp on a beach\n")
    page.get_by_role("button", name="Undo").click()
    wait_until(lambda: (images / "1.txt").read_text() == "garp, number 1\n")

    page.get_by_role("button", name="Find and replace").click()
    page.get_by_label("Find", exact=True).last.fill("number")
    page.get_by_label("Replace by").fill("picture")
    page.get_by_role("button", name="Replace", exact=True).click()
    wait_until(lambda: (images / "0.txt").read_text() == "garp, picture 0\n")
    assert (images / "2.txt").read_text() == HOSTILE
    assert page.get_by_label("Caption of 2.png").input_value() == HOSTILE
    page.get_by_role("button", name="Tags").click()
    page.get_by_label("Rename garp").fill("mia")
    page.get_by_label("Rename garp").press("Enter")
    wait_until(lambda: (images / "1.txt").read_text() == "mia, picture 1\n")
    assert page.title() == "Data: Lorasmith studio"


def test_a_mask_is_painted_with_a_brush(tmp_path: Path, studio: Start, page: Any) -> None:
    images = make_images(tmp_path / "images", 1)
    page.goto(studio(images).url)
    page.get_by_role("link", name="Data").click()
    page.locator("a.folder").click()
    page.locator(".frame img").first.wait_for()
    page.get_by_role("button", name="Open 0.png").click()
    page.get_by_role("button", name="Paint a mask").click()
    box = page.locator("canvas.paint").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 40, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 3, middle, steps=5)
    page.mouse.up()
    page.get_by_role("button", name="Save the mask").click()
    page.get_by_text("The mask is saved.").wait_for()
    with Image.open(images / "masks" / "0.png") as mask:
        assert mask.size == (96, 64)
        assert (mask.getpixel((20, 32)), mask.getpixel((80, 32)), mask.getpixel((20, 4))) == (255, 0, 0)


def test_of_ten_thousand_images_only_those_in_sight_are_in_the_page(tmp_path: Path, studio: Start, page: Any) -> None:
    images = tmp_path / "images"
    images.mkdir()
    first = images / "0.png"
    Image.new("RGB", (64, 64)).save(first)
    for i in range(1, 10_000):
        os.link(first, images / f"{i}.png")
    (images / "9999.txt").write_text("the last one\n")
    page.goto(studio(images).url)
    page.get_by_role("link", name="Data").click()
    page.locator("a.folder").click()
    page.get_by_text("10,000 images").wait_for()
    page.locator(".frame img").first.wait_for()
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.get_by_text("9999.png").wait_for()
    # its caption was not among the first that are read
    wait_until(lambda: page.get_by_label("Caption of 9999.png").input_value() == "the last one")
    assert page.get_by_role("button", name="Find and replace").is_enabled()
    assert page.locator(".item").count() < 60
