"""From images to a file that is passed on, in a real browser: caption, mask, form, start, loss, preview, stop,
resume, compare, ship."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

import lorasmith
from lorasmith.core.lock import find_holder
from tests.browser.conftest import Studio
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
Start = Callable[..., Studio]


def test_from_the_form_to_a_shipped_file(
    tmp_path: Path, studio: Start, page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(Path(lorasmith.__file__).parent / "assets/garp", tmp_path / "garp")
    opened = studio(tmp_path)
    page.goto(opened.url)
    edit_a_caption_and_paint_a_mask(page, tmp_path / "garp")
    page.get_by_role("link", name="New run").click()

    # a recipe, a mistake that shows at its field, and its correction
    page.get_by_label("Base model").fill("tiny-sd")
    page.get_by_label("Trigger word").fill("garp")
    page.get_by_role("button", name="Make a config").click()
    rate = page.get_by_label("optimizer.lr", exact=True)
    rate.fill("fast")
    wrong = page.locator("[id='setting-optimizer.lr-wrong']")
    wait_until(lambda: "number" in wrong.inner_text())
    rate.fill("1e-3")
    wait_until(lambda: wrong.inner_text() == "")
    fill_setting(page, "checkpoint.every_steps", "10")
    # less to compute, and still long enough to be stopped under way
    fill_setting(page, "data.batch_size", "4")
    fill_setting(page, "preview.steps", "4")
    page.get_by_role("button", name="Start the run").click()

    # the loss moves and a preview comes, without a reload
    page.wait_for_url("**/#/run?**", timeout=120_000)
    run = tmp_path / "runs/garp"
    losses = page.locator(".tile", has_text="loss, mean")
    losses.wait_for(timeout=120_000)
    first = losses.inner_text()
    wait_until(lambda: losses.inner_text() != first)
    page.get_by_role("heading", name="Previews").wait_for(timeout=120_000)

    # the run goes on without the studio
    wait_until(lambda: '"event": "preview"' in (run / "events.jsonl").read_text())
    opened.process.kill()
    opened.process.wait()
    assert find_holder(run) is not None
    page.goto("about:blank")
    page.problems.clear()

    page.goto(studio(tmp_path).url)
    page.get_by_role("link", name="garp").first.click()
    page.get_by_role("button", name="Stop", exact=False).first.click()
    wait_until(lambda: find_holder(run) is None)
    page.get_by_role("button", name="Resume", exact=False).first.click()
    file = run / "garp.safetensors"
    wait_until(file.is_file, 300)
    wait_until(lambda: find_holder(run) is None)

    # compare two exports, ship one
    page.get_by_role("link", name="Compare").click()
    page.get_by_label("Prompts, one on each line").fill("a photo of garp, on grass")
    page.get_by_role("button", name="Draw").click()
    page.wait_for_selector(".compare th:nth-child(3)", timeout=180_000)
    page.get_by_role("button", name="Ship this one").first.click()
    page.get_by_label("Licence").fill("CC0")
    page.get_by_role("button", name="Write the file").click()
    page.get_by_text("Written:").wait_for(timeout=60_000)
    shipped = next(run.glob("*-ship.safetensors"))
    with safe_open(shipped, "pt") as contents:
        metadata = contents.metadata()
    assert metadata["modelspec.license"] == "CC0"
    assert metadata["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")


def fill_setting(page: Any, key: str, value: str) -> None:
    """In the form of all settings; the config follows."""
    page.get_by_label("Search all settings").fill(key)
    page.get_by_label(key, exact=True).fill(value)
    line = f"\n{key.rpartition('.')[2]} = {value}\n"
    wait_until(lambda: line in page.get_by_label("The config as TOML").input_value())


def edit_a_caption_and_paint_a_mask(page: Any, images: Path) -> None:
    """On the page of data; the ordinary files are written."""
    page.get_by_role("link", name="Data").click()
    page.locator("a.folder").first.click()
    page.locator(".frame img").first.wait_for()
    item = page.locator(".item").first
    name = Path(item.locator(".name").inner_text().split("\n")[0].strip()).stem
    caption = item.locator("textarea")
    caption.fill("garp, seen from the front")
    caption.press("Control+Enter")
    wait_until(lambda: (images / f"{name}.txt").read_text() == "garp, seen from the front\n")
    page.get_by_role("button", name=f"Open {name}").first.click()
    page.get_by_role("button", name=re.compile("(Paint a|Change the) mask")).click()
    box = page.locator("canvas.paint").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    page.get_by_role("button", name="Save the mask").click()
    page.get_by_text("The mask is saved.").wait_for()
    assert (images / "masks" / f"{name}.png").is_file()
    page.keyboard.press("Escape")
