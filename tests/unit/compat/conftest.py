"""A config of kohya's script, converted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lorasmith.compat.script import Conversion, find_script
from lorasmith.training.config import load_config

Convert = Callable[..., Conversion]


@pytest.fixture
def train_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`img` with 2_a (three images) and 1_b (one), `reg` with 1_c (four)."""
    for folder, count in (("img/2_a", 3), ("img/1_b_c", 1), ("reg/1_c", 4)):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8)).save(tmp_path / folder / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def convert(train_dir: Path) -> Convert:
    """Converts values, over a small config; the result must be a config of ours."""

    def run(script: str = "train_network", /, **values: Any) -> Conversion:
        start = {
            "pretrained_model_name_or_path": "tiny-sd",
            "train_data_dir": "img",
            "resolution": "64",
            "network_module": "networks.lora",
            "output_dir": "out",
            "output_name": "x",
            "seed": 1,
        }
        chosen = find_script(script)
        given = {k: v for k, v in (start | values).items() if v is not None}
        parsed = chosen.read(given, [])
        conversion = chosen.convert(parsed)
        conversion.notes[:0] = parsed.warnings
        if conversion.resume is None:
            load_config(conversion.config)
        return conversion

    return run
