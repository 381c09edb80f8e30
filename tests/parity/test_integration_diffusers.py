"""Our files on a stock diffusers pipeline draw what we draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor

from lorasmith.adapters import AdapterConfig
from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.dora import DoRA
from lorasmith.adapters.lokr import LoKr
from lorasmith.adapters.lora import LoRA
from lorasmith.concepts import Concept
from lorasmith.concepts.initial_embeddings import initial_vocabulary
from lorasmith.core.errors import LorasmithError
from lorasmith.core.rng import torch_generator
from lorasmith.families.load import load
from lorasmith.families.resolve import find
from lorasmith.formats import token_embeddings
from lorasmith.formats.kohya import Lycoris
from lorasmith.formats.write import write
from lorasmith.integrations import diffusers as integration
from lorasmith.sampling.loras import Loras, LoraUse
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample

PROMPT, NEGATIVE = "a photo of a <x> <y>, on grass", "red"


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = StableDiffusionPipeline.from_pretrained(
        find("tiny-sd").path, local_files_only=True, torch_dtype=torch.float32
    )
    made.scheduler = DDIMScheduler.from_config(made.scheduler.config, clip_sample=False, set_alpha_to_one=False)
    made.set_progress_bar_config(disable=True)
    return made


def made_file(path: Path, config: AdapterConfig, layerwise: bool) -> Path:
    """A file with changes of random size and two new words."""
    family = load("tiny-sd")
    size = len(next(iter(family.embedding_tables().values())))
    concept = Concept(words=("<x>", "<y>"), init=("<rand-0.3>", "dog"), layerwise=layerwise)
    new = initial_vocabulary([concept], family.token_embeddings, size, 16, seed=1)
    torch.manual_seed(0)
    adapters = AdapterSet.create(config, family.named_layers(("unet", "te")), family.layer_presets, seed=0)
    with torch.no_grad():
        for p in (*adapters.parameters(), *new.parameters()):
            p.add_(torch.randn_like(p) * 0.02)
    encoded = Lycoris().encode_adapters(adapters.adapters, family, adapters.weight_of)
    tensors, metadata = token_embeddings.encode(new)
    return write(path, {**encoded.tensors, **tensors}, metadata, torch.float32)


def ours(path: Path, strength: float) -> Tensor:
    family = load("tiny-sd")
    request = Request(PROMPT, NEGATIVE, seed=3, steps=3, cfg=4.0, width=64, height=64)
    with Loras(family).attached([LoraUse(path, strength)]):
        return sample(family, [request])[0].pixels


def theirs(pipe: Any) -> Tensor:
    latents = torch.randn((1, 4, 8, 8), generator=torch_generator(3, "sampling"))
    drawn = pipe(
        PROMPT, negative_prompt=NEGATIVE, num_inference_steps=3, guidance_scale=4.0, latents=latents, output_type="pt"
    ).images
    return drawn[0] * 2 - 1


@pytest.mark.slow_except("lora-False")
@pytest.mark.parametrize(
    ("config", "layerwise"),
    [
        pytest.param(config, layerwise, id=f"{config.kind}-{layerwise}", marks=() if by_default else pytest.mark.slow)
        for config, layerwise, by_default in (
            (LoRA(rank=2), False, True),
            (LoRA(rank=2), True, True),
            (LoKr(rank=2), False, True),
            (LoKr(rank=2), True, False),
            (DoRA(rank=2), False, False),
            (DoRA(rank=2), True, True),
        )
    ],
)
def test_it_draws_the_same_and_goes_off(config: AdapterConfig, layerwise: bool, pipe: Any, tmp_path: Path) -> None:
    path = made_file(tmp_path / "f.safetensors", config, layerwise)
    before = theirs(pipe)
    handle = integration.load(pipe, path, strength=0.8)
    assert handle.words == ["<x>", "<y>"]
    drawn, wanted = theirs(pipe), ours(path, 0.8)
    handle.unload()
    assert float((drawn - before).abs().max()) > 0.05
    assert float((drawn - wanted.clamp(-1, 1)).abs().max()) < 2e-3
    assert torch.equal(theirs(pipe), before)


def test_a_file_for_another_model_leaves_the_pipeline_alone(pipe: Any, tmp_path: Path) -> None:
    bad = {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.randn(2, 999),
           "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.randn(128, 2)}  # fmt: skip
    path = write(tmp_path / "bad.safetensors", bad, {}, torch.float32)
    before = theirs(pipe)
    with pytest.raises(LorasmithError, match="does not fit"):
        integration.load(pipe, path)
    assert torch.equal(theirs(pipe), before)
