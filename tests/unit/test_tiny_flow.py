"""The embedded flow model: it loads by its name, draws, and takes a LoRA."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from safetensors.torch import load_file

import lorasmith
from lorasmith.core.embedded_bases import EMBEDDED_BASES
from lorasmith.core.package import assets
from lorasmith.core.recipes import FOLDER
from lorasmith.diffusion.rectified_flow import RectifiedFlow
from lorasmith.evaluation.judge import Judge
from lorasmith.families.load import load
from lorasmith.families.resolve import identify
from lorasmith.sampling.loras import load_lora
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample
from lorasmith.training.config import load_config
from lorasmith.training.session import train
from tools.tiny_base import flow_base, gates
from tools.tiny_base.gate_lora import score

HERE = assets() / "tiny-flow"
RECIPE = FOLDER / "garp-flow.toml"


def test_it_is_named_beside_the_other_embedded_base() -> None:
    assert "tiny-flow" in EMBEDDED_BASES
    found = identify("tiny-flow")
    assert (found.kind, found.prediction, found.path) == ("sd3", "velocity", HERE)


def test_it_is_small_and_in_finite_halves() -> None:
    assert flow_base.size(HERE) <= flow_base.LIMIT
    tensors = load_file(HERE / "transformer" / "diffusion_pytorch_model.safetensors").values()
    assert all(t.dtype == torch.float16 and t.isfinite().all() for t in tensors)


def test_its_config_names_the_class_that_other_programs_know() -> None:
    config = json.loads((HERE / "transformer" / "config.json").read_text())
    assert config["_class_name"] == "SD3Transformer2DModel"


def test_a_subclass_is_written_under_the_name_of_its_class_in_diffusers(tmp_path: Path) -> None:
    """The family trains a subclass."""

    class Ours(SD3Transformer2DModel):
        pass

    small = flow_base.transformer(32, 1, 2)
    small.__class__ = Ours
    flow_base.write_transformer(small, tmp_path)
    config = json.loads((tmp_path / "transformer" / "config.json").read_text())
    assert config["_class_name"] == "SD3Transformer2DModel"


def test_it_draws_a_picture_of_what_was_asked_for() -> None:
    family = load("tiny-flow")
    assert isinstance(family.path, RectifiedFlow)
    request = gates.flow_request(Request("a photo of a red car, on grass", steps=8, width=128, height=128))
    (picture,) = sample(family, [request])
    judge = Judge.load()
    assert judge.concept(picture.pixels[None]).names == ["car"]
    assert judge.background(picture.pixels[None]).names == ["grass"]


@pytest.mark.slow
def test_two_steps_export_a_lora_and_resume_bit_for_bit(tmp_path: Path) -> None:
    """The second step is done again from the checkpoint of the first."""
    folder = tmp_path / "run"
    overrides = [f'output="{folder.as_posix()}"', "steps=2", "data.batch_size=1", "device=cpu"]
    quiet = ["preview.every_steps=1000", "preview.at_end=false", "checkpoint.every_steps=1"]
    whole = train(load_config(RECIPE, [*overrides, *quiet]))
    assert whole.file is not None
    first = load_file(whole.file)
    assert first
    assert all(name.startswith("lora_unet_") for name in first)
    whole.file.unlink()
    shutil.rmtree(folder / "checkpoints" / "step-00000002")
    assert train(load_config(folder / "config.toml"), resume=folder).steps == 2
    second = load_file(whole.file)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_the_judge_finds_what_was_asked_for() -> None:
    asked, concepts, places = gates.requests()
    chosen = range(0, len(asked), 13)
    drawn = sample(load("tiny-flow"), [gates.flow_request(asked[i]) for i in chosen], batch_size=8)
    pixels = torch.stack([picture.pixels for picture in drawn])
    assert Judge.load().concept(pixels).share([concepts[i] for i in chosen]) >= 0.9
    assert Judge.load().background(pixels).share([places[i] for i in chosen]) >= 0.9


@pytest.mark.slow
def test_the_recipe_teaches_garp_and_leaves_the_others(tmp_path: Path) -> None:
    overrides = ["preview.every_steps=1000", "preview.at_end=false"]
    result = lorasmith.train(RECIPE, output=tmp_path / "run", overrides=overrides)
    assert result.file is not None
    family, judge = load("tiny-flow"), Judge.load()
    before = score(family, judge, cfg=4.0)
    adapters = load_lora(family, result.file)
    after = score(family, judge, cfg=4.0)
    adapters.detach()
    assert after["garp"] >= 0.75
    assert after["others"] >= before["others"] - 0.05
