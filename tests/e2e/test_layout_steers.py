"""The example of a condition steers: garp is drawn where its layout says. The measure is checked on drawn boxes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from answers import ROOT

from tools.tiny_base.gate_layout import BOXES, box_of, is_placed, overlap


@pytest.mark.parametrize("layout", BOXES)
def test_the_measure_finds_a_box_and_only_its_own_layout_fits(layout: str) -> None:
    picture = torch.full((3, 128, 128), 0.1)
    left, top, right, bottom = (int(side) for side in BOXES[layout])
    picture[:, top:bottom, left:right] = torch.tensor([0.9, -0.9, 0.5])[:, None, None]
    picture[0, 2, 100] = 1  # a speck
    found = box_of(picture)
    assert found is not None
    assert overlap(found, BOXES[layout]) > 0.95
    assert is_placed(layout, found)
    opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top", "large": "small", "small": "large"}
    assert not is_placed(opposite[layout], found)


def test_a_picture_without_a_subject_has_no_box() -> None:
    assert box_of(torch.linspace(-0.2, 0.2, 128).expand(3, 128, 128)) is None


@pytest.mark.slow
def test_a_layout_decides_where_the_subject_is_drawn(tmp_path: Path) -> None:
    to = tmp_path / "found.json"
    command = [sys.executable, "-m", "tools.tiny_base.gate_layout", "--output", str(tmp_path), "--to", str(to)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(to.read_text(encoding="utf-8"))["seed 0"]
    assert found["garp with layout"]["placed"] >= 0.9
    assert found["garp with layout"]["overlap"] >= 0.65
    assert found["garp with layout"]["subject"] >= 0.75
    assert found["garp without"]["overlap"] <= 0.45
