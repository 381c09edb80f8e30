"""A LoRA that learns: the demo's settings on the embedded base, and the judge looks at what comes out."""

from __future__ import annotations

from pathlib import Path

import pytest

import lorasmith
from lorasmith.core.recipes import FOLDER
from lorasmith.evaluation.judge import Judge
from lorasmith.families.load import load
from lorasmith.sampling.loras import load_lora
from tools.tiny_base.gate_lora import score

RECIPE = FOLDER / "garp.toml"


@pytest.mark.slow
def test_the_character_is_learned_and_the_others_stay(tmp_path: Path) -> None:
    result = lorasmith.train(
        RECIPE, output=tmp_path / "run", overrides=["preview.every_steps=1000", "preview.at_end=false"]
    )
    assert result.file is not None
    family, eye = load("tiny-sd"), Judge.load()
    before = score(family, eye)
    adapters = load_lora(family, result.file)
    after = score(family, eye)
    adapters.detach()
    assert before["garp"] == 0
    assert after["garp"] >= 0.9
    assert after["its_background"] >= 0.75
    assert after["others"] >= before["others"] - 0.05
