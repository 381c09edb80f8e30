"""diffusers' scripts for SD3 and Flux: t and weights beside diffusers' functions, layers beside peft's rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_loss_weighting_for_sd3
from PIL import Image
from torch import Tensor

from lorasmith.adapters.attach import matches
from lorasmith.compat.script import Conversion, find_script
from lorasmith.core.errors import ConfigError
from lorasmith.diffusion.prediction import Velocity
from lorasmith.diffusion.rectified_flow import RectifiedFlow
from lorasmith.families.load import open_base
from lorasmith.training.config import load_config
from tests.transformer_bases import write_flux, write_sd3

Run = Callable[..., Conversion]
U = torch.rand(400, generator=torch.Generator().manual_seed(0))
N = torch.randn(400, generator=torch.Generator().manual_seed(1))


class Draws:
    """The original's draws, counted from our side: its u is our 1 - u."""

    def uniform(self, name: str) -> Tensor:
        return 1 - U

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return -N


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dog").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "dog" / "0.png")

    def convert(model: str, *more: str) -> Conversion:
        chosen = find_script(f"train_dreambooth_lora_{model}")
        start = ["--pretrained_model_name_or_path=x", "--instance_data_dir=dog", "--instance_prompt=a dog"]
        found = chosen.convert(chosen.parse([*start, *more]))
        load_config(found.config)
        return found

    return convert


def test_defaults_of_the_scripts(run: Run) -> None:
    sd3 = run("sd3").config
    assert sd3["text"] == {"t5_tokens": 77}
    assert sd3["objective"]["weightings"] == ["x0"]
    assert sd3["objective"]["timesteps"]["shift"] == "model"
    assert (sd3["adapter"]["rank"], sd3["adapter"]["alpha"], sd3["adapter"]["init"]) == (4, 4, "gaussian")
    flux = run("flux", "--rank=16").config
    assert (flux["adapter"]["rank"], flux["adapter"]["alpha"], flux["guidance"]) == (16, 4, 3.5)
    assert flux["objective"] == {"kind": "denoising", "timesteps": {"kind": "uniform"}}
    assert flux["text"] == {"t5_tokens": 512}
    assert flux["optimizer"]["text_lr"] == 0


@pytest.mark.parametrize("scheme", ["logit_normal", "mode", "sigma_sqrt", "cosmap"])
@pytest.mark.parametrize(("model", "shift"), [("sd3", 3.0), ("flux", 1.0)])
def test_t_is_that_of_the_scheduler(run: Run, model: str, shift: float, scheme: str) -> None:
    config = run(model, f"--weighting_scheme={scheme}", "--logit_mean=0.3", "--mode_scale=0.9").config
    sampler: Any = load_config(config).objective
    drawn = sampler.timesteps(Draws(), RectifiedFlow(fixed_shift=shift))
    u = {
        "logit_normal": (0.3 + N).sigmoid(),
        "mode": 1 - U - 0.9 * (torch.cos(torch.pi * U / 2) ** 2 - 1 + U),
    }.get(scheme, U)
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs = scheduler.sigmas[(u * 1000).long()]
    torch.testing.assert_close(drawn, theirs, rtol=0, atol=4e-3)


@pytest.mark.parametrize("scheme", ["sigma_sqrt", "cosmap", "logit_normal"])
@pytest.mark.parametrize("preconditioned", [0, 1])
def test_weights_of_sd3(run: Run, scheme: str, preconditioned: int) -> None:
    arguments = [f"--weighting_scheme={scheme}", f"--precondition_outputs={preconditioned}"]
    objective: Any = load_config(run("sd3", *arguments).config).objective
    sigma = torch.tensor([0.01, 0.4, 0.9])
    weight = torch.ones(3)
    for weighting in objective.weightings:
        weight = weight * weighting(sigma, RectifiedFlow(), Velocity())
    # with preconditioning their error is sigma times that of the velocity
    theirs = compute_loss_weighting_for_sd3(scheme, sigma) * (sigma**2 if preconditioned else 1)
    torch.testing.assert_close(weight, theirs)


def suffixes(names: list[str], targets: list[str]) -> set[str]:
    """peft's rule for a list of target modules."""
    return {name for name in names if any(name.endswith(f".{target}") for target in targets)}


@pytest.mark.parametrize(
    ("model", "arguments", "targets"),
    [
        ("sd3", [], ["attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out"]),
        ("sd3", ["--lora_layers=attn.to_k, ff.net.2"], ["attn.to_k", "ff.net.2"]),
        ("sd3", ["--lora_blocks=1", "--lora_layers=attn.to_v"], ["transformer_blocks.1.attn.to_v"]),
        ("flux", [], ["attn.add_q_proj", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"]),
        ("flux", ["--lora_layers=proj_mlp"], ["proj_mlp"]),
    ],
)
def test_layers_are_those_of_peft(
    run: Run, tmp_path: Path, model: str, arguments: list[str], targets: list[str]
) -> None:
    base = (write_sd3 if model == "sd3" else write_flux)(tmp_path / "base")
    names = [spec.name for spec in open_base(base).layers()]
    if not arguments:
        targets = [*targets, "attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0"]
        targets += ["attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"]
    patterns = run(model, *arguments).config["adapter"]["layers"]
    trained = {name for name in names if matches(name, patterns) and name.startswith("transformer.")}
    assert trained == suffixes([name for name in names if name.startswith("transformer.")], targets)
    assert any(matches(name, patterns) for name in names if name.startswith("te1."))


def test_previews_are_drawn_as_the_pipelines_do(run: Run) -> None:
    preview = run("flux", "--validation_prompt=a dog", "--num_validation_images=1").config["preview"]
    assert (preview["sampler"], preview["steps"], preview["cfg"]) == ("euler", 28, 1.0)


def test_wrong_values_are_named(run: Run) -> None:
    with pytest.raises(ConfigError, match="a multiple of 16"):
        run("sd3", "--resolution=520")
    with pytest.raises(ConfigError, match="numbers, such as 12,13,14"):
        run("sd3", "--lora_blocks=a")
