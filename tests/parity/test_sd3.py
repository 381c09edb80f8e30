"""SD3 beside diffusers: texts, outputs, gradients of adapters, pictures; all in float32 on small random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from peft_twin import assert_equal_gradients, attach_twins
from transformers import AutoTokenizer, CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel

from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample_latents, scheduler_for
from tests.transformer_bases import T5_WIDTH, write_sd3

TEXTS = ["a cat on a mat", "a very long text " * 30]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sd3(tmp_path_factory.mktemp("sd3"))


@pytest.fixture
def family(folder: Path) -> Family:
    return load(folder)


def pipeline(folder: Path) -> Any:
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel.from_pretrained(folder / "transformer"),  # type: ignore[arg-type]
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKL.from_pretrained(folder / "vae"),  # type: ignore[arg-type]
        text_encoder=CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2"),
        tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
        text_encoder_3=T5EncoderModel.from_pretrained(folder / "text_encoder_3"),
        tokenizer_3=AutoTokenizer.from_pretrained(folder / "tokenizer_3"),
    )


def test_texts(folder: Path, family: Family) -> None:
    ours = family.encode_text(TEXTS)
    with torch.no_grad():
        context, _, pooled, _ = pipeline(folder).encode_prompt(TEXTS, None, None, do_classifier_free_guidance=False)
    assert ours["context"].shape == (2, 77 + 256, T5_WIDTH)
    torch.testing.assert_close(ours["context"].detach(), context, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours["pooled"].detach(), pooled, atol=1e-5, rtol=1e-5)


def test_outputs_and_gradients_of_adapters(folder: Path, family: Family) -> None:
    theirs: Any = SD3Transformer2DModel.from_pretrained(folder / "transformer")
    conditioning = family.encode_text(TEXTS)
    context, pooled = conditioning["context"].detach(), conditioning["pooled"].detach()
    x, t = torch.randn(2, 16, 12, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 0.9])
    with torch.no_grad():
        expected = theirs(x, context, pooled, 1000 * t, return_dict=False)[0]
        torch.testing.assert_close(family.predict(x, t, conditioning), expected, atol=1e-5, rtol=1e-5)

    adapters, pairs = attach_twins(family, theirs, "attention")
    assert any("attn2.to_q" in name for name in adapters.adapters)
    assert any("add_k_proj" in name for name in adapters.adapters)
    ours_out = family.predict(x, t, conditioning)
    ours_out.square().mean().backward()
    theirs_out = theirs(x, context, pooled, 1000 * t, return_dict=False)[0]
    theirs_out.square().mean().backward()
    torch.testing.assert_close(ours_out, theirs_out, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours_out, expected, atol=1e-2)
    assert_equal_gradients(pairs)


def test_pictures(folder: Path, family: Family) -> None:
    """Latents of a whole drawing with guidance, from the same noise."""
    request = Request("a cat", negative="blurry", seed=5, steps=4, cfg=5.0, width=96, height=64, sampler="euler")
    started: list[torch.Tensor] = []
    predict = family.predict
    family.predict = lambda x, t, c: (started.append(x), predict(x, t, c))[1]  # type: ignore[method-assign]
    with torch.no_grad():
        ours = sample_latents(family, [request], scheduler_for(family, request), lambda: None)
    theirs = pipeline(folder)(
        "a cat",
        negative_prompt="blurry",
        num_inference_steps=4,
        guidance_scale=5.0,
        width=96,
        height=64,
        latents=started[0][:1],
        output_type="latent",
    ).images
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_latents_and_their_shift(folder: Path, family: Family) -> None:
    vae: Any = AutoencoderKL.from_pretrained(folder / "vae")
    pixels = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = (vae.encode(pixels).latent_dist.mean - 0.0609) * 1.5305
        x0 = family.latents(family.encode_image(pixels), None)
        torch.testing.assert_close(x0, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(family.decode(x0), vae.decode(x0 / 1.5305 + 0.0609).sample, atol=1e-5, rtol=1e-5)


def test_without_t5_its_states_are_zeros(tmp_path: Path) -> None:
    family = load(write_sd3(tmp_path, with_t5=False))
    context = family.encode_text(["a cat"])["context"]
    assert context.shape == (1, 333, T5_WIDTH)
    assert float(context[:, 77:].abs().max()) == 0
    assert float(context[:, :77].abs().max()) > 0
