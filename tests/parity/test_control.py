"""ControlNets and T2I-Adapters beside diffusers: the UNet's residuals, and whole pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.core.rng import torch_generator
from lorasmith.families.load import load
from lorasmith.families.stable_diffusion.steering import Residuals
from lorasmith.sampling.control import AreaWeight, Control
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample
from tests.parity.test_sampling_pipeline import SD, pipeline
from tests.parity.test_unet_forward import inputs, ours, peer

SIZE = (96, 64)


def shapes(unet: Any, known: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
    """Random residuals of a ControlNet's shapes, asked of diffusers' own."""
    from diffusers import ControlNetModel

    net: Any = ControlNetModel.from_unet(unet)
    added = {"text_embeds": known["pooled"], "time_ids": known["time_ids"]} if "pooled" in known else None
    height, width = (8 * side for side in known["x"].shape[2:])
    picture = torch.zeros(2, 3, height, width)
    skips, middle = net(known["x"], known["t"], known["context"], picture, added_cond_kwargs=added, return_dict=False)
    return [torch.randn_like(s) for s in skips], torch.randn_like(middle)


@pytest.mark.slow_except("sd1")
@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_residuals_stand_where_diffusers_has_them(kind: str) -> None:
    torch.manual_seed(1)
    model = peer(kind)
    unet = ours(model)
    known = inputs(unet)
    skips, middle = shapes(model, known)
    with torch.no_grad():
        added = {"text_embeds": known["pooled"], "time_ids": known["time_ids"]} if "pooled" in known else None
        args = (known["x"], known["t"], known["context"])
        expected = model(
            *args,
            down_block_additional_residuals=skips,
            mid_block_additional_residual=middle,
            added_cond_kwargs=added,
        ).sample
        plain = unet(**known)
        found = unet(**known, residuals=Residuals(skips, middle))
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
        assert (found - plain).abs().max() > 0.1
        levels = [torch.randn_like(s) for s in level_outputs(unet, known)]
        expected = model(*args, down_intrablock_additional_residuals=list(levels), added_cond_kwargs=added).sample
        found = unet(**known, residuals=Residuals(levels=levels))
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
        assert (found - plain).abs().max() > 0.1


def level_outputs(unet: Any, known: dict[str, Tensor]) -> list[Tensor]:
    """Tensors of the shapes that a T2I-Adapter gives, one a level."""
    made, (height, width) = [], known["x"].shape[2:]
    for level, channels in zip(unet.down_blocks, unet.config.channels, strict=True):
        below = (-(-height // 2), -(-width // 2)) if level.downsamplers is not None else (height, width)
        here = (height, width) if level.attentions is not None else below
        made.append(torch.empty(len(known["x"]), channels, *here))
        height, width = below
    return made


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "edges.png")
    return tmp_path / "edges.png"


@pytest.fixture
def controlnet(tiny_bases: Callable[[str], Path], tmp_path: Path) -> Path:
    """A ControlNet whose zero convolutions are not zero any more."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    torch.manual_seed(2)
    unet: Any = UNet2DConditionModel.from_pretrained(tiny_bases("sd1") / "unet")
    net: Any = ControlNetModel.from_unet(unet)
    for name, value in net.named_parameters():
        if "controlnet" in name:
            value.data.normal_(std=0.1)
    net.save_pretrained(tmp_path / "controlnet")
    return tmp_path / "controlnet"


@pytest.fixture
def adapter(tiny_bases: Callable[[str], Path], tmp_path: Path) -> Path:
    from diffusers import T2IAdapter, UNet2DConditionModel

    torch.manual_seed(2)
    widths = UNet2DConditionModel.from_pretrained(tiny_bases("sd1") / "unet").config["block_out_channels"]
    made: Any = T2IAdapter(in_channels=1, channels=list(widths), num_res_blocks=1)
    made.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def request(control: Control) -> Request:
    return Request(
        "a cat, on a mat", negative="blurry", seed=5, steps=5, cfg=4.0, sampler="ddim", width=SIZE[0], height=SIZE[1],
        controls=(control,),
    )  # fmt: skip


def their_latents(asked: Request) -> dict[str, Any]:
    shape = (1, 4, asked.height // 8, asked.width // 8)
    return {
        "prompt": asked.prompt, "negative_prompt": asked.negative, "num_inference_steps": asked.steps,
        "guidance_scale": asked.cfg, "latents": torch.randn(shape, generator=torch_generator(asked.seed, "sampling")),
        "output_type": "pt", "width": asked.width, "height": asked.height,
    }  # fmt: skip


@pytest.mark.slow
def test_a_controlnet_draws_as_in_diffusers(tiny_bases: Callable[[str], Path], controlnet: Path, picture: Path) -> None:
    from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline

    folder = tiny_bases("sd1")
    plain = pipeline(folder, DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=False, steps_offset=1))
    made = StableDiffusionControlNetPipeline(
        **plain.components, controlnet=ControlNetModel.from_pretrained(controlnet), requires_safety_checker=False
    )
    made.set_progress_bar_config(disable=True)
    asked = request(Control(model=str(controlnet), image=picture, weight=0.7, end=0.6))
    with Image.open(picture) as image:
        drawn = made(
            **their_latents(asked), image=image, controlnet_conditioning_scale=0.7, control_guidance_end=0.6
        ).images[0]
    ours = sample(load(folder), [asked])[0].pixels.clamp(-1, 1)
    torch.testing.assert_close(ours, drawn * 2 - 1, atol=2e-3, rtol=0)
    without = sample(load(folder), [request(Control(model=str(controlnet), image=picture, weight=0.0))])[0].pixels
    assert (ours - without).abs().max() > 0.02


def test_an_adapter_draws_as_in_diffusers(tiny_bases: Callable[[str], Path], adapter: Path, picture: Path) -> None:
    from diffusers import DDIMScheduler, StableDiffusionAdapterPipeline, T2IAdapter

    folder = tiny_bases("sd1")
    plain = pipeline(folder, DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=False, steps_offset=1))
    parts = {name: part for name, part in plain.components.items() if name != "image_encoder"}
    made = StableDiffusionAdapterPipeline(
        **parts, adapter=T2IAdapter.from_pretrained(adapter), requires_safety_checker=False
    )
    made.set_progress_bar_config(disable=True)
    asked = request(Control(model=str(adapter), image=picture, weight=0.9))
    with Image.open(picture) as image:
        drawn = made(**their_latents(asked), image=image.convert("L"), adapter_conditioning_scale=0.9).images[0]
    drawn = torch.as_tensor(drawn).permute(2, 0, 1)
    ours = sample(load(folder), [asked])[0].pixels.clamp(-1, 1)
    torch.testing.assert_close(ours, drawn * 2 - 1, atol=2e-3, rtol=0)


@pytest.mark.slow
def test_areas_have_weights_of_their_own(tiny_bases: Callable[[str], Path], adapter: Path, picture: Path) -> None:
    family = load(tiny_bases("sd1"))
    everywhere = Control(model=str(adapter), image=picture, weight=0.6)
    by_areas = Control(model=str(adapter), image=picture, weight=0.1, areas=(AreaWeight(box=(0, 0, 1, 1), weight=0.6),))
    left = Control(model=str(adapter), image=picture, weight=0.6, areas=(AreaWeight(box=(48, 0, 96, 64), weight=0.0),))
    one, other, half = (sample(family, [request(c)])[0].pixels for c in (everywhere, by_areas, left))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert (one - half).abs().max() > 1e-3


@pytest.mark.slow
def test_two_controls_add_up(tiny_bases: Callable[[str], Path], adapter: Path, controlnet: Path, picture: Path) -> None:
    family = load(tiny_bases("sd1"))
    half = Control(model=str(adapter), image=picture, weight=0.4)
    asked = request(half)
    twice = Request(**{**asked.__dict__, "controls": (half, half)})
    once = request(Control(model=str(adapter), image=picture, weight=0.8))
    one, other = (sample(family, [r])[0].pixels for r in (twice, once))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    mixed = Request(**{**asked.__dict__, "controls": (half, Control(model=str(controlnet), image=picture))})
    assert (sample(family, [mixed])[0].pixels - one).abs().max() > 1e-3


def test_controls_that_cannot_be(
    tiny_bases: Callable[[str], Path], controlnet: Path, picture: Path, tmp_path: Path
) -> None:
    from lorasmith.core.config import validate

    with pytest.raises(ConfigError, match="image"):
        validate(Control, {"model": "x", "image": str(tmp_path / "none.png")})
    family = load(tiny_bases("sd1"))
    for model, message in (
        (tmp_path, "no config.json"),
        (tiny_bases("sd1") / "unet", "class UNet2DConditionModel; ControlNetModel, T2IAdapter"),
    ):
        with pytest.raises(LorasmithError, match=message):
            sample(family, [request(Control(model=str(model), image=picture))])
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(LorasmithError, match="not a picture"):
        sample(family, [request(Control(model=str(controlnet), image=broken))])
    with pytest.raises(LorasmithError, match="made for a UNet of the widths"):
        sample(load("tiny-sd"), [request(Control(model=str(controlnet), image=picture))])
    assert Control.read("a/b=c.png:0.5") == {"model": "a/b", "image": "c.png", "weight": 0.5}
    assert Control.read("a/b=c.png") == {"model": "a/b", "image": "c.png"}
    with pytest.raises(LorasmithError, match="MODEL=IMAGE"):
        Control.read("c.png")
