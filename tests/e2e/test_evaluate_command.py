"""`lorasmith evaluate` on the tiny base, with its judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from answers import Program


@pytest.mark.slow
def test_the_base_and_a_lora_are_compared_and_pictures_kept(
    config: Callable[..., Path], pictures: Callable[..., Path], here: Program, tmp_path: Path
) -> None:
    answer = here("train", config())
    assert answer.code == 0, answer.err
    lora = next(p for p in tmp_path.rglob("*.safetensors") if "checkpoint" not in str(p) and ".exact" not in p.name)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a photo of a <TOK>\na <TOK> on a red background\n")
    out = tmp_path / "evaluation"
    images = pictures(3, name="training")
    arguments = (
        "evaluate", "--base", "tiny-sd", "--images", images, "--lora", lora, "--with-base", "--trigger", "garp",
        "--class", "cactus", "--prompts", prompts, "--scorer", "judge", "--steps", "8", "--set", "cfg=5",
        "--output", out, "--json",
    )  # fmt: skip
    answer = here(*arguments, "--count", "2")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert [row["name"] for row in found["rows"]] == ["base alone", lora.stem]
    assert all(row["pictures"] == 4 and 0 <= row["image_alignment"] <= 1 for row in found["rows"])
    assert found["rows"][0]["text_alignment"] > 1.5  # of 2.5: the base draws cactuses
    assert json.loads((out / "evaluation.json").read_text())["rows"] == found["rows"]
    page = (out / "report.html").read_text()
    assert page.count("<img") >= 8
    assert "http" not in page
    times = {p: p.stat().st_mtime_ns for p in (out / "pictures").rglob("*.png")}
    assert len(times) == 8
    answer = here(*arguments, "--count", "3")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["rows"][0]["pictures"] == 6
    now = {p: p.stat().st_mtime_ns for p in (out / "pictures").rglob("*.png")}
    assert len(now) == 12
    assert all(now[path] == time for path, time in times.items())


def test_mistakes_are_told_before_anything_is_drawn(
    pictures: Callable[..., Path], here: Program, tmp_path: Path
) -> None:
    folder = pictures(2)
    for arguments, said in (
        ((), "nothing to evaluate"),
        (("--with-base",), "give --base"),
        (("--with-base", "--base", "tiny-sd"), "give --class"),
        (("--lora", "no.safetensors"), "no.safetensors: no such LoRA file"),
        (("--drawn", folder, "--scorer", "clipp"), 'did you mean "clip"'),
        (("--drawn", folder, "--held-out", "none"), "--held-out: none: no such folder of images"),
        (("--drawn", folder, "--class-images", folder), "--class-images: it measures the loss with a LoRA"),
    ):
        answer = here("evaluate", "--images", folder, "--output", tmp_path / "out", *arguments)
        assert answer.code == 1
        assert said in answer.err
        assert "Traceback" not in answer.err
    assert not (tmp_path / "out").exists()
