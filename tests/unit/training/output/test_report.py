"""The report of a run: complete, self-contained, and written from whatever the folder holds."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from lorasmith.core.errors import LorasmithError
from lorasmith.core.lock import locked
from lorasmith.training.output.best import HeldOutLoss, choose
from lorasmith.training.output.report import write_report
from lorasmith.training.output.report.axes import Line, thin_out, x_axis, y_axis
from lorasmith.training.output.report.inspect_run import inspect_run
from lorasmith.training.output.report.notes import warnings
from lorasmith.training.output.report.page import equal_joined
from lorasmith.training.output.report.pictures import select_evenly
from lorasmith.training.output.report.record import Point, read, smooth
from lorasmith.training.output.report.tables import table


def step(number: int, loss: float | None = None) -> dict:
    loss = 0.2 - 0.0005 * number if loss is None else loss
    fields = {"epoch": 0, "loss": loss, "grad_norm": 0.4, "lr": {"unet": 1e-3, "te": 1e-4}, "seconds": number / 2}
    return {"event": "step", "step": number, "samples": number * 2, **fields}


def preview(folder: Path, number: int) -> dict:
    grid = folder / f"previews/step-{number:08d}/grid.png"
    grid.parent.mkdir(parents=True)
    Image.new("RGB", (64, 32), (number, 80, 90)).save(grid)
    return {"event": "preview", "step": number, "grid": str(grid.relative_to(folder)), "prompts": ["a <b> & c"]}


def make_run(folder: Path, events: list[dict], **summary: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    if summary:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def full(tmp_path: Path) -> Path:
    folder = tmp_path / "garp"
    folder.mkdir()
    validation = [
        {"event": "validation", "step": s, "loss": v, "by_t": {"100": v, "900": v / 9}, "base_loss": 0.3}
        for s, v in ((1, 0.3), (20, 0.2), (40, 0.25))
    ]
    skip = {"event": "skip", "step": 9, "images": ["bad/07.png"], "reason": "the loss is not a finite number"}
    events = [{"event": "start", "step": 0}, *(step(n) for n in range(1, 41)), *validation, skip]
    events += [preview(folder, 20), preview(folder, 40)]
    events += [{"event": "end", "step": 40, "seconds": 20.0, "file": "garp.safetensors"}]
    (folder / "garp.safetensors").write_bytes(b"x" * 2_500_000)
    (folder / "config.toml").write_text('comment = "</script><script>alert(1)"\n')
    data = {"images": 12345, "buckets": [{"size": [128, 96], "images": 7}]}
    return make_run(folder, events, name="Garp <3", base={"source": "tiny-sd"}, data=data, trigger=["garp"])


def test_the_page_holds_every_part_of_the_run(full: Path) -> None:
    text = write_report(full).read_text()
    for heading in ("Previews", "Curves", "Data", "Made of", "Settings"):
        assert f"<h2>{heading}</h2>" in text
    for chart in ("Loss", "Learning rate", "Gradient norm", "Validation loss by timestep"):
        assert f"<figcaption><b>{chart}" in text
    assert text.count("data:image/webp;base64,") == 2
    for word in ("Garp &lt;3", "bad/07.png", "12,345", "128×96", "2.50 MB", "lowest at step 20"):
        assert word in text, word


def test_the_page_loads_nothing_and_runs_no_text_of_the_user(full: Path) -> None:
    text = write_report(full).read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    assert "url(" not in text
    assert "@import" not in text
    assert text.count("<script>") == 1
    assert "a <b>" not in text


def test_every_tag_is_closed(full: Path) -> None:
    void = {"meta", "img", "br", "line", "circle", "polyline"}
    stack: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in void:
                stack.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in void:
                assert stack.pop() == tag

    Tags().feed(write_report(full).read_text())
    assert not stack


def test_the_plot_shows_the_loss(full: Path) -> None:
    write_report(full)
    with Image.open(full / "loss.png") as picture:
        assert picture.size == (1200, 640)
        colours = {colour for _, colour in picture.getcolors(1 << 20) or []}
    assert {(37, 99, 205), (217, 95, 14)} <= colours


@pytest.mark.parametrize(
    "events",
    [
        [{"event": "start", "step": 0}],
        [{"event": "start", "step": 0}, step(1)],
        [step(1, 0.1), step(2, 0.1)],
        [{"event": "step", "step": 1, "loss": None, "lr": None}, {"event": "skip", "step": 1, "images": None}],
        [{"event": "preview", "step": 3, "grid": "gone.png", "prompts": None}, {"event": "end", "step": 3}],
    ],
)
def test_a_run_with_little_in_it_has_a_report_too(tmp_path: Path, events: list[dict]) -> None:
    text = write_report(make_run(tmp_path / "run", events)).read_text()
    assert ("not finished" in text) == (events[-1]["event"] != "end")


@pytest.mark.parametrize(("images", "warned"), [(3, False), (6, True)])
def test_few_held_out_images_that_tell_nothing_apart_are_no_sign_of_a_bad_run(
    tmp_path: Path, images: int, warned: bool
) -> None:
    def loss(at: int, gain: float) -> HeldOutLoss:
        return HeldOutLoss(at, tuple(0.2 + 0.1 * i - gain * (-1) ** i for i in range(images)))

    choice = choose([loss(10, 0.05)], start=loss(0, 0.0))
    assert choice.no_better_than_start
    run = make_run(tmp_path / "run", [{"event": "best", "step": 10, **choice.to_json()}, {"event": "end", "step": 10}])
    said = " ".join(warnings(read(run)))
    assert ("The loss on held-out images is not clearly lower than before the training" in said) == warned
    assert (said == "") == (not warned)


def test_a_run_that_a_process_trains_now_is_not_to_be_continued(tmp_path: Path) -> None:
    run = make_run(tmp_path / "my run", [step(1), step(2)])
    with locked(run, "output"):
        assert inspect_run(run)["state"] == "under way"
        text = write_report(run).read_text()
        assert "under way" in text
        assert "lorasmith train --resume" not in text
        # the process that trains it says so when it stops
        assert "lorasmith train --resume" in write_report(run, stopped=True).read_text()
    assert inspect_run(run)["state"] == "not finished"
    # the command can be copied
    assert shlex.split(warnings(read(run))[0])[-4:] == ["lorasmith", "train", "--resume", str(run)]
    assert "lorasmith train --resume" in write_report(run).read_text()


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [step(1), step(2)])
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"event": "step", "st')
    assert read(folder).steps == 2


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LorasmithError, match=r"holds no run"):
        write_report(tmp_path)


def test_smoothing_of_a_constant_is_that_constant() -> None:
    points = [(float(i), 0.25) for i in range(100)]
    assert [y for _, y in smooth(points)] == pytest.approx([0.25] * 100)


def test_thinning_keeps_ends_and_spikes() -> None:
    points = [(float(i), 0.0) for i in range(10_000)]
    points[1234] = (1234.0, 9.0)
    kept = thin_out(points)
    assert len(kept) < 600
    assert kept == sorted(kept)
    assert {points[0], points[1234], points[-1]} <= set(kept)


def test_axes_hold_their_points_and_start_and_end_on_ticks() -> None:
    line = Line("loss", [(1, 0.031), (700, 0.219)])
    y, x = y_axis([line]), x_axis([line])
    assert y.low <= 0.031
    assert y.high >= 0.219
    assert y.ticks[0] == pytest.approx(y.low)
    assert y.ticks[-1] == pytest.approx(y.high)
    assert (x.low, x.high) == (1, 700)


def test_equal_lines_are_one_line_with_both_names() -> None:
    low: list[Point] = [(1, 1.0)]
    high: list[Point] = [(1, 2.0)]
    assert equal_joined({"unet": low, "te": list(low), "words": high}) == {"unet, te": low, "words": high}


def test_an_explanation_stands_once_for_neighbours_of_one_meaning() -> None:
    html = table({"in fp16": 1, "in fp8": 2, "other": 3}, lambda name: "bits" if name.startswith("in") else "")
    assert html.count('<p class="note">bits</p>') == 1


def test_thinned_previews_keep_the_first_and_the_last() -> None:
    chosen = select_evenly(list(range(100)))
    assert (chosen[0], chosen[-1], len(chosen)) == (0, 99, 12)


def test_the_report_needs_no_torch() -> None:
    code = "import sys, lorasmith.training.output.report; print('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_pictures_are_encoded_once_and_not_kept_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run writes its report every minute."""
    from lorasmith.training.output.report import pictures

    encoded: list[int] = []
    encode = pictures.encode
    monkeypatch.setattr(pictures, "encode", lambda picture, side: encoded.append(side) or encode(picture, side))
    monkeypatch.setattr(pictures, "MOST_PICTURES", 2)
    monkeypatch.setattr(pictures.select_evenly, "__defaults__", (2,))
    run = make_run(tmp_path / "run", [step(1), preview(tmp_path / "run", 1), preview(tmp_path / "run", 2)])
    cache: dict = {}
    write_report(run, cache)
    write_report(run, cache)
    assert (len(encoded), len(cache)) == (2, 2)
    for number in range(3, 9):
        with (run / "events.jsonl").open("a") as file:
            file.write(json.dumps(preview(run, number)) + "\n")
        write_report(run, cache)
        assert len(cache) == 2
