"""Flux beside diffusers: texts, packing, outputs, pictures; all in float32 on small random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from peft_twin import assert_equal_gradients, attach_twins
from transformers import AutoTokenizer, CLIPTextModel, CLIPTokenizer, T5EncoderModel

from lorasmith.families.base import Family
from lorasmith.families.flux.network import image_positions, pack, unpack
from lorasmith.families.load import load
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample_latents, scheduler_for
from tests.transformer_bases import T5_WIDTH, write_flux

TEXTS = ["a cat on a mat", "a very long text " * 40]


@pytest.fixture(scope="module", params=[True, False], ids=["dev", "schnell"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flux(tmp_path_factory.mktemp("flux"), guidance=request.param)


@pytest.fixture
def family(folder: Path) -> Family:
    return load(folder)


def pipeline(folder: Path) -> Any:
    return FluxPipeline(
        transformer=FluxTransformer2DModel.from_pretrained(folder / "transformer"),  # type: ignore[arg-type]
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=AutoencoderKL.from_pretrained(folder / "vae"),  # type: ignore[arg-type]
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder_2=T5EncoderModel.from_pretrained(folder / "text_encoder_2"),
        tokenizer_2=AutoTokenizer.from_pretrained(folder / "tokenizer_2"),
    )


@pytest.mark.slow_except("dev")
def test_texts(folder: Path, family: Family) -> None:
    ours = family.encode_text(TEXTS)
    with torch.no_grad():
        context, pooled, _ = pipeline(folder).encode_prompt(TEXTS, None)
    assert ours["context"].shape == (2, 512, T5_WIDTH)
    torch.testing.assert_close(ours["context"].detach(), context, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours["pooled"].detach(), pooled, atol=1e-5, rtol=1e-5)


def test_packing_and_positions() -> None:
    x = torch.randn(2, 16, 8, 12)
    packing: Any = FluxPipeline
    torch.testing.assert_close(pack(x), packing._pack_latents(x, 2, 16, 8, 12))
    torch.testing.assert_close(unpack(pack(x), 8, 12), x)
    expected = packing._prepare_latent_image_ids(2, 4, 6, "cpu", torch.float32)
    torch.testing.assert_close(image_positions(4, 6, torch.device("cpu")), expected)


@pytest.mark.slow_except("dev")
def test_outputs_and_gradients_of_adapters(folder: Path, family: Family) -> None:
    theirs: Any = FluxTransformer2DModel.from_pretrained(folder / "transformer")
    conditioning = family.encode_text(TEXTS)
    x, t = torch.randn(2, 16, 8, 12, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 0.9])
    adapters, pairs = attach_twins(family, theirs, "attention-mlp")
    assert any("single_transformer_blocks.0.proj_mlp" in name for name in adapters.adapters)
    ours_out = family.predict(x, t, conditioning)
    ours_out.square().mean().backward()
    theirs_out = theirs(
        hidden_states=pack(x),
        encoder_hidden_states=conditioning["context"].detach(),
        pooled_projections=conditioning["pooled"].detach(),
        timestep=t,
        img_ids=image_positions(4, 6, torch.device("cpu")),
        txt_ids=torch.zeros(512, 3),
        guidance=torch.ones(2) if theirs.config.guidance_embeds else None,
        return_dict=False,
    )[0]
    theirs_out.square().mean().backward()
    torch.testing.assert_close(pack(ours_out), theirs_out, atol=1e-5, rtol=1e-5)
    assert_equal_gradients(pairs)


@pytest.mark.slow_except("dev-3.5")
@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_pictures(folder: Path, family: Family, guidance: float) -> None:
    """Latents of a whole drawing, from the same noise and with the shift of the picture's size."""
    request = Request("a cat", seed=5, steps=4, cfg=1.0, guidance=guidance, width=96, height=64, sampler="euler")
    started: list[torch.Tensor] = []
    predict = family.predict
    family.predict = lambda x, t, c: (started.append(x), predict(x, t, c))[1]  # type: ignore[method-assign]
    with torch.no_grad():
        ours = sample_latents(family, [request], scheduler_for(family, request), lambda: None)
    theirs = pipeline(folder)(
        "a cat",
        num_inference_steps=4,
        guidance_scale=guidance,
        width=96,
        height=64,
        latents=pack(started[0]),
        output_type="latent",
    ).images
    torch.testing.assert_close(pack(ours), theirs, atol=1e-4, rtol=1e-4)
