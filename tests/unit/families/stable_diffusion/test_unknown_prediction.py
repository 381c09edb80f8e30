"""SD 2.x files that do not say what they predict: the YAML beside the file, else one pass of the UNet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lorasmith.families.load import load, open_base
from lorasmith.families.stable_diffusion.unknown_prediction import prediction_of_output

Bases = Callable[[str], Path]
LAST = "model.diffusion_model.out.2"


def silent_file(
    bases: Bases, target: Path, bias: float | None = None, more: dict[str, torch.Tensor] | None = None
) -> Path:
    """A single file of SD 2.x without a word on its prediction. `bias`: the only output of its UNet; None: random."""
    base = bases("sd2").with_name("sd2.safetensors")
    with safe_open(base, "pt") as file:
        configs = json.loads(file.metadata()["lorasmith.configs"])
    del configs["scheduler"]
    tensors = load_file(base) | (more or {})
    if bias is not None:
        tensors[f"{LAST}.weight"] = torch.zeros_like(tensors[f"{LAST}.weight"])
        tensors[f"{LAST}.bias"] = torch.full_like(tensors[f"{LAST}.bias"], bias)
    save_file(tensors, target, {"lorasmith.configs": json.dumps(configs)})
    return target


@pytest.mark.slow_except("0.5-*", "nan-*")
@pytest.mark.parametrize(
    ("bias", "prediction", "origin"),
    [
        (0.5, "epsilon", "probed"),  # returns the noise that it was given
        (-2.0, "v_prediction", "probed"),
        (0.0, "v_prediction", "assumed"),  # as published for 768
        (float("nan"), "v_prediction", "assumed"),
    ],
)
def test_the_unet_is_asked_once(
    bias: float, prediction: str, origin: str, bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORASMITH_CACHE", str(tmp_path / "cache"))
    path = silent_file(bases, tmp_path / "model.safetensors", bias)
    base = open_base(path)
    assert (base.prediction, base.prediction_origin) == (prediction, origin)

    # the answer is in the cache, so that the UNet is not loaded for it again
    monkeypatch.setattr("lorasmith.families.stable_diffusion.unknown_prediction.probe", lambda source: 1 / 0)
    assert open_base(path).prediction == prediction


@pytest.mark.slow_except(".yaml-*")
@pytest.mark.parametrize(
    ("text", "prediction"),
    [
        ("model:\n  params:\n    parameterization: v\n", "v_prediction"),
        ("model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n    timesteps: 1000\n", "epsilon"),
    ],
)
@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_a_yaml_file_beside_it_counts(text: str, prediction: str, suffix: str, bases: Bases, tmp_path: Path) -> None:
    path = silent_file(bases, tmp_path / "model.safetensors", bias=0.5 if prediction == "v_prediction" else -2.0)
    path.with_suffix(suffix).write_text(text)
    base = open_base(path)
    assert (base.prediction, base.prediction_origin) == (prediction, "stated")
    assert load(path).prediction.name == prediction


@pytest.mark.slow_except("*model:?3*", "*title*")
@pytest.mark.parametrize("text", ["", "- 1\n", "model: 3\n", "model: {params: [\n", "title: my model\n", "a: *b\n"])
def test_another_yaml_file_is_passed_over(text: str, bases: Bases, tmp_path: Path) -> None:
    path = silent_file(bases, tmp_path / "model.safetensors", bias=0.5)
    path.with_suffix(".yaml").write_text(text)
    assert open_base(path).prediction_origin == "probed"


@pytest.mark.parametrize("kind", ["sd2", "sdxl"])
def test_marker_tensors_count(kind: str, bases: Bases, tmp_path: Path) -> None:
    source = bases(kind).with_name(f"{kind}.safetensors")
    with safe_open(source, "pt") as file:
        metadata = file.metadata()
    markers = {"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}
    save_file(load_file(source) | markers, tmp_path / "marked.safetensors", metadata)
    base = open_base(tmp_path / "marked.safetensors")
    assert (base.prediction, base.prediction_origin) == ("v_prediction", "stated")
    assert base.config("scheduler")["rescale_betas_zero_snr"] is True


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_bases_that_say_it_are_not_asked(kind: str, bases: Bases) -> None:
    for path in (bases(kind), bases(kind).with_name(f"{kind}.safetensors")):
        assert open_base(path).prediction_origin == "stated"


def test_an_output_with_nan_says_nothing() -> None:
    latent = torch.full((1, 4, 8, 8), 0.5)
    assert prediction_of_output(latent, latent * float("nan")) == "unknown"
    assert prediction_of_output(latent, latent * 1.1) == "epsilon"
    assert prediction_of_output(latent, latent * -1.1) == "v_prediction"
