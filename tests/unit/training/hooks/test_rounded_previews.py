"""What a LoRA becomes on a base in few bits: in previews, in the facts of a run, and in `inspect --base`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lorasmith
from lorasmith.adapters.rounding import rounded
from lorasmith.core.errors import LorasmithError
from lorasmith.training.config import load_config
from lorasmith.training.hooks.rounded_base import check_rounding, on_rounded_base
from lorasmith.training.run import Run
from lorasmith.training.session import train
from lorasmith.training.setup.build import build_run

GARP = Path(__file__).parents[4] / "src/lorasmith/assets/garp"


def table(tmp_path: Path, **more: Any) -> dict[str, Any]:
    data = {"images": str(GARP), "part": [0, 2], "resolution": 64, "batch_size": 2}
    return {
        "base": "tiny-sd",
        "output": str(tmp_path / "run"),
        "steps": 1,
        "data": data,
        "adapter": {"kind": "lora", "rank": 2},
        "optimizer": {"lr": 1e-3},
        **more,
    }


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return build_run(load_config(table(tmp_path)))


def test_weights_are_rounded_with_the_change_and_come_back(run: Run) -> None:
    name, adapter = next(iter(run.adapters.adapters.items()))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    before = {key: value.clone() for key, value in run.family.denoiser.state_dict().items()}
    weight = run.adapters.weight_of(name).clone()
    strength = dict.fromkeys(run.adapters.components(), 0.5)
    with run.as_exported(), on_rounded_base(run, "fp8", strength):
        base = rounded(weight, torch.float8_e4m3fn)
        expected = rounded(adapter.weight(base, 0.5), torch.float8_e4m3fn)
        assert torch.equal(run.adapters.weight_of(name), expected)
        # the change is in the weights, so that it must not be added beside them again
        assert run.adapters.strength["unet"] == 0
        other = run.family.denoiser.conv_in.weight
        assert torch.equal(other, rounded(other, torch.float8_e4m3fn))
    after = run.family.denoiser.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert run.adapters.strength["unet"] == 1


def test_fp16_is_refused_where_the_run_computes_in_bf16(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.family, "dtype", torch.bfloat16)
    with pytest.raises(LorasmithError, match=r'preview.rounded is "fp16", but .* or preview.rounded = "fp8"'):
        check_rounding(run, "fp16")
    check_rounding(run, "fp8")


@pytest.mark.slow
def test_a_preview_has_a_row_on_the_rounded_base_and_the_run_says_what_rounds_away(tmp_path: Path) -> None:
    drawn = {"prompts": ["a photo of garp"], "steps": 2, "width": 64, "height": 64, "rounded": "fp8"}
    train(load_config(table(tmp_path, preview=drawn)))
    folder = tmp_path / "run"
    pictures = folder / "previews" / "step-00000001"
    exact, coarse = (np.asarray(Image.open(pictures / name)) for name in ("00.png", "00-fp8.png"))
    assert exact.shape == coarse.shape
    assert (exact != coarse).any()
    facts = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    rounding = next(event for event in facts if event["event"] == "facts")["rounding"]
    # a change after one step is far below the distance of the numbers of fp8
    assert rounding["fp8"]["unchanged"] > 0.9
    assert rounding["fp16"]["unchanged"] < rounding["fp8"]["unchanged"]

    of_run = lorasmith.inspect(folder)
    assert "do not change the stored weight" in of_run["added into a base in fp8"]
    assert any("stored in fp8" in finding["text"] for finding in of_run["findings"])
    of_file = lorasmith.inspect(folder / "run.safetensors", base="tiny-sd")
    assert of_file["in fp8"] == of_run["added into a base in fp8"]
    assert lorasmith.inspect(folder / "run.safetensors").get("in fp8") is None
