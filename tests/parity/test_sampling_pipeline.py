"""Pictures beside those of diffusers' pipelines: same weights, same first noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lorasmith.core.rng import torch_generator
from lorasmith.diffusion.prediction import VPrediction
from lorasmith.families.load import load
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample

SD: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SIZE = {"width": 72, "height": 64}


def pipeline(folder: Path, scheduler: Any) -> Any:
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    parts: dict[str, Any] = {
        "vae": AutoencoderKL.from_pretrained(folder / "vae"),
        "unet": UNet2DConditionModel.from_pretrained(folder / "unet"),
        "text_encoder": CLIPTextModel.from_pretrained(folder / "text_encoder"),
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
    }
    made = StableDiffusionPipeline(
        **parts, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    made.set_progress_bar_config(disable=True)
    text = parts["text_encoder"]
    if not hasattr(text, "text_model"):  # newer transformers; the pipeline looks for the norm there
        text.__dict__["text_model"] = SimpleNamespace(final_layer_norm=text.final_layer_norm)
    return made


def theirs(made: Any, request: Request) -> Tensor:
    latents = torch.randn(
        (1, 4, request.height // 8, request.width // 8), generator=torch_generator(request.seed, "sampling")
    )
    drawn = made(
        request.prompt,
        negative_prompt=request.negative,
        num_inference_steps=request.steps,
        guidance_scale=request.cfg,
        guidance_rescale=request.rescale,
        clip_skip=request.clip_skip - 1 or None,
        latents=latents,
        output_type="pt",
        **SIZE,
    )
    return drawn.images[0] * 2 - 1


@pytest.mark.slow_except("ddim-*")
@pytest.mark.parametrize(
    ("name", "scheduler", "options"),
    [
        ("ddim", "DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
        ("pndm", "PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}),
        ("euler", "EulerDiscreteScheduler", {}),
        ("heun", "HeunDiscreteScheduler", {}),
        ("dpm++_2m_karras", "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
        ("unipc", "UniPCMultistepScheduler", {}),
    ],
)
def test_epsilon(tiny_bases: Callable[[str], Path], name: str, scheduler: str, options: dict[str, Any]) -> None:
    import diffusers

    folder = tiny_bases("sd1")
    request = Request("a cat, on a mat", negative="blurry", seed=5, steps=6, cfg=5.0, sampler=name, **SIZE)
    expected = theirs(pipeline(folder, getattr(diffusers, scheduler)(**SD, **options)), request)
    ours = sample(load(folder), [request])[0].pixels
    torch.testing.assert_close(ours.clamp(-1, 1), expected, atol=1e-3, rtol=0)
    assert float(expected.std()) > 0.02


@pytest.mark.slow
def test_clip_skip(tiny_bases: Callable[[str], Path]) -> None:
    from diffusers import EulerDiscreteScheduler

    folder = tiny_bases("sd1")  # no guidance: diffusers leaves negative prompts at the last layer
    request = Request("a cat", seed=2, steps=4, cfg=1.0, sampler="euler", clip_skip=2, **SIZE)
    expected = theirs(pipeline(folder, EulerDiscreteScheduler(**SD)), request)
    torch.testing.assert_close(sample(load(folder), [request])[0].pixels.clamp(-1, 1), expected, atol=1e-3, rtol=0)


@pytest.mark.slow_except("True-ddim")
@pytest.mark.parametrize("name", ["ddim", "euler"])
@pytest.mark.parametrize("terminal", [False, True])
def test_v_prediction(tiny_bases: Callable[[str], Path], name: str, terminal: bool) -> None:
    """With a schedule that ends in pure noise too, and rescaled guidance as its paper wants it."""
    import diffusers

    folder = tiny_bases("sd2")
    options: dict[str, Any] = {"prediction_type": "v_prediction"}
    if name == "ddim":
        options |= {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    if terminal:
        options |= {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    scheduler = {"ddim": diffusers.DDIMScheduler, "euler": diffusers.EulerDiscreteScheduler}[name](**SD, **options)
    request = Request("a cat", seed=5, steps=6, sampler=name, rescale=0.7 if terminal else 0.0, **SIZE)
    family = load(folder)
    family.prediction = VPrediction()
    if terminal:
        family.path = family.path.zero_terminal_snr()
    ours = sample(family, [request])[0].pixels
    torch.testing.assert_close(ours.clamp(-1, 1), theirs(pipeline(folder, scheduler), request), atol=2e-3, rtol=0)
