"""Previews of several seeds and strengths: the pictures that the exported file gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lorasmith.sampling.loras import LoraUse
from lorasmith.sampling.run import sample_to_folder
from lorasmith.sampling.settings import SampleSettings
from lorasmith.training.config import load_config
from lorasmith.training.output.report import write_report
from lorasmith.training.run import Run
from lorasmith.training.setup.build import build_run
from lorasmith.training.step.loop import fit

GARP = Path(__file__).parents[4] / "src/lorasmith/assets/garp"
DRAWN = {"steps": 2, "cfg": 3.0, "width": 64, "height": 48, "seed": 5}


@pytest.fixture
def table(tmp_path: Path) -> dict[str, Any]:
    return {
        "base": "tiny-sd",
        "output": str(tmp_path / "run"),
        "steps": 2,
        "data": {
            "images": str(GARP),
            "part": [0, 2],
            "resolution": 64,
            "batch_size": 2,
            "transforms": [{"kind": "replace", "words": {"garp": "<g>"}}],
        },
        "concepts": [{"words": "<g>", "init": "robot", "layerwise": True, "lr": 0.05}],
        "adapter": {"kind": "lora", "rank": 2, "alpha": 8},
        "optimizer": {"lr": 0.05, "text_lr": 0.05},
    }


def trained(table: dict[str, Any]) -> Run:
    run = build_run(load_config(table))
    fit(run)
    run.adapters.detach()
    return run


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.slow
def test_strengths_and_seeds_are_those_of_the_exported_file(table: dict[str, Any], tmp_path: Path) -> None:
    asked = {"prompts": ["a <g>", "a house --d 9"], "count": 2, "strengths": [0, 1, [0.5, 1.5]], **DRAWN}
    run = trained(table | {"preview": asked})
    folder = run.folder / "previews/step-00000002"
    strengths = {"0": (0, 0), "1": (1, 1), "0.5_1.5": (0.5, 1.5)}
    wanted = {f"{i:02d}-{name}.png" for i in range(4) for name in strengths} | {"grid-00.png", "grid-01.png"}
    assert {p.name for p in folder.iterdir()} == wanted
    exact = run.folder / "run.exact.safetensors"
    for name, (unet, text) in strengths.items():
        uses = [LoraUse(exact, float(unet), float(text))]
        settings = SampleSettings(count=2, **DRAWN)  # type: ignore[arg-type]
        result = sample_to_folder("tiny-sd", ["a <g>", "a house --d 9"], tmp_path / name, loras=uses, settings=settings)
        for i, file in enumerate(result.files):
            assert abs(pixels(file) - pixels(folder / f"{i:02d}-{name}.png")).max() <= 2, (name, i)
    each = [pixels(folder / f"00-{name}.png") for name in strengths]
    assert abs(each[0] - each[1]).mean() > 1
    assert abs(each[2] - each[1]).mean() > 1
    assert abs(pixels(folder / "00-1.png") - pixels(folder / "01-1.png")).mean() > 1

    (event,) = (e for line in (run.folder / "events.jsonl").read_text().splitlines()
                if (e := json.loads(line))["event"] == "preview")  # fmt: skip
    assert event["grids"] == [f"previews/step-00000002/grid-0{i}.png" for i in (0, 1)]
    assert event["prompts"] == ["a <g>", "a house"]
    # for the command in the report
    assert event["options"] == ["--cfg", "3", "--steps", "2"]
    with Image.open(folder / "grid-00.png") as grid:  # the base and three strengths, two seeds
        assert grid.height > 4 * 48
        assert grid.width > 2 * 64
    assert write_report(run.folder).read_text().count('alt="previews at step 2"') == 2
    assert load_config(run.folder / "config.toml").preview == run.config.preview


def test_words_alone_have_no_strengths(table: dict[str, Any]) -> None:
    asked = {"prompts": ["a <g>"], "strengths": [0, 1], "compare_base": False, **DRAWN}
    run = trained(table | {"preview": asked, "optimizer": {"unet_lr": 0.0, "text_lr": 0.0}})
    assert {p.name for p in (run.folder / "previews/step-00000002").iterdir()} == {"00.png", "grid.png"}
