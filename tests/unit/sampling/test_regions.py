"""Texts of their own for parts of a picture: files that ask for them, and what is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.families.base import Family
from lorasmith.sampling.loras import LoraUse
from lorasmith.sampling.regions import Region, format_regions, parse_area_weights, parse_regions, read_regions
from lorasmith.sampling.request import Request
from lorasmith.sampling.run import sample_to_folder
from lorasmith.sampling.sample import sample
from lorasmith.sampling.settings import SampleSettings

WIDE = Request("a meadow", negative="blurry", steps=3, width=128, height=64, cfg=4.0, seed=3)
CAT = Region(prompt="a cat", box=(0, 0, 0.5, 1))
DOG = Region(prompt="a dog", box=(0.5, 0, 1, 1))


def pixels(family: Family, *requests: Request) -> list[torch.Tensor]:
    return [picture.pixels for picture in sample(family, requests)]


@pytest.mark.slow_except("sd1")
@pytest.mark.parametrize("kind", ["sd1", pytest.param("sd2", marks=pytest.mark.slow), "sdxl"])
def test_one_region_over_all_is_the_picture_of_its_text(loaded: Callable[[str], Family], kind: str) -> None:
    family = loaded(kind)
    whole = replace(WIDE, regions=(Region(prompt="a cat"),))
    region, plain = pixels(family, whole, replace(WIDE, prompt="a cat"))
    if kind == "sdxl":  # the pooled text stays the whole picture's
        assert not torch.allclose(region, plain, atol=1e-3)
        family_texts = [replace(whole, prompt="a cat"), replace(WIDE, prompt="a cat")]
        region, plain = pixels(family, *family_texts)
    torch.testing.assert_close(region, plain, atol=1e-4, rtol=0)


def test_regions_change_the_picture_and_their_order_does_not_count(family: Family) -> None:
    plain, one, other, turned = pixels(
        family,
        WIDE,
        replace(WIDE, regions=(CAT, DOG)),
        replace(WIDE, regions=(DOG, CAT)),
        replace(WIDE, regions=(CAT.model_copy(update={"prompt": "a dog"}), DOG.model_copy(update={"prompt": "a cat"}))),
    )
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert (one - plain).abs().max() > 0.01
    assert (one - turned).abs().max() > 0.01


@pytest.mark.slow
def test_a_region_of_weight_0_does_nothing(family: Family) -> None:
    plain, weak = pixels(family, WIDE, replace(WIDE, regions=(CAT.model_copy(update={"weight": 0.0}),)))
    torch.testing.assert_close(plain, weak, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_regions_in_a_batch_are_those_alone(family: Family) -> None:
    requests = [replace(WIDE, regions=(CAT, DOG), seed=seed, apart=0.4) for seed in (1, 2)]
    requests.append(replace(WIDE, regions=(CAT.model_copy(update={"prompt": "a long cat"}), DOG), apart=0.4))
    together = pixels(family, *requests)
    for picture, request in zip(together, requests, strict=True):
        torch.testing.assert_close(picture, pixels(family, request)[0], atol=2e-3, rtol=0)


def test_apart_all_along_each_region_is_its_own_picture(family: Family) -> None:
    """Noise is the only thing that comes from the whole; with the same noise, each half is what it would be alone."""
    from lorasmith.sampling.control import ControlModels
    from lorasmith.sampling.predictions import GuidedPrediction

    wide = replace(WIDE, regions=(CAT, DOG), apart=1.0)
    x, t = torch.randn(1, 4, 8, 16), torch.tensor([500])
    found = GuidedPrediction(family, [wide], ControlModels(family))(x, t, 0.0)
    for region, columns in ((CAT, slice(0, 8)), (DOG, slice(8, 16))):
        small = replace(WIDE, prompt=region.prompt, width=64)
        alone = GuidedPrediction(family, [small], ControlModels(family))(x[..., columns], t, 0.0)
        torch.testing.assert_close(found[..., columns], alone, atol=1e-5, rtol=0)
    later = GuidedPrediction(family, [replace(wide, apart=0.5)], ControlModels(family))(x, t, 0.5)
    assert (later - found).abs().max() > 1e-3


def test_pixels_and_shares_are_the_same_box(family: Family) -> None:
    shares = replace(WIDE, regions=(CAT, DOG))
    counted = replace(
        WIDE, regions=(Region(prompt="a cat", box=(0, 0, 64, 64)), Region(prompt="a dog", box=(64, 0, 128, 64)))
    )
    one, other = pixels(family, shares, counted)
    assert torch.equal(one, other)
    with pytest.raises(LorasmithError, match="ends outside the picture of 128 x 64"):
        replace(WIDE, regions=(Region(prompt="a cat", box=(0, 0, 64, 80)),))


def test_the_original_syntax() -> None:
    text = "[a <potter1> <potter2>, red|blue hat]-*-[low, worst]-*-[4, 6, 512, 1024]|\n[a dog]-*-[]-*-[]"
    assert parse_regions(text) == [
        {"prompt": "a <potter1> <potter2>, red|blue hat", "negative": "low, worst", "box": (6, 4, 1024, 512)},
        {"prompt": "a dog", "negative": "", "box": (0, 0, 1, 1)},
    ]
    regions = [Region(**table) for table in parse_regions(text)]
    assert [Region(**t).relative_box(1024, 512) for t in parse_regions(format_regions(regions, 1024, 512))] == [
        r.relative_box(1024, 512) for r in regions
    ]
    assert parse_area_weights("[0, 0, 512, 300]-1.0|[0,300,512,1024]-.5") == [
        {"box": (0, 0, 300, 512), "weight": 1.0},
        {"box": (300, 0, 1024, 512), "weight": 0.5},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a cat", "cannot read 'a cat'"),
        ("[a cat]-*-[]-*-[0, 0, 64, 64]|[a dog", "cannot read '\\[a dog'"),
        ("[a cat]-*-[]-*-[0, 0, 64]", "not four numbers"),
        ("[a cat]-*-[]-*-[__import__('os')]", "not four numbers"),
    ],
)
def test_mistakes_in_the_original_syntax(text: str, message: str) -> None:
    with pytest.raises(LorasmithError, match=message):
        parse_regions(text)


def test_files_of_regions(tmp_path: Path) -> None:
    toml = tmp_path / "scene.toml"
    toml.write_text('[[regions]]\nprompt = "a cat"\nbox = [0, 0, 0.5, 1]\n[[regions]]\nprompt = "a dog"\n')
    assert read_regions(toml) == (CAT, Region(prompt="a dog"))
    text = tmp_path / "scene.txt"
    text.write_text("[a cat]-*-[]-*-[0, 0, 64, 32]")
    assert read_regions(text)[0].box == (0, 0, 32, 64)
    toml.write_text('[[regions]]\nprompt = "a cat"\nbox = [0.5, 0, 0.5, 1]\n[[regions]]\nprompt = ""\nbocks = 3\n')
    with pytest.raises(ConfigError) as caught:
        read_regions(toml)
    message = str(caught.value)
    assert all(part in message for part in ("left < right", "bocks", "box", "prompt"))
    toml.write_text("regions = []\n")
    with pytest.raises(LorasmithError, match="no region in it"):
        read_regions(toml)


@pytest.mark.slow
def test_a_scene_into_a_folder(
    bases: Callable[[str], Path], family: Family, tmp_path: Path, write_lora: Callable[..., Path]
) -> None:
    lora = write_lora(family)
    scene = tmp_path / "scene.toml"
    scene.write_text(
        'prompt = "a meadow"\nwidth = 128\nheight = 64\nsteps = 2\napart = 0.5\n'
        '[[regions]]\nprompt = "a cat <lora:garp:0.7>"\nbox = [0, 0, 0.5, 1]\n'
        '[[regions]]\nprompt = "a dog"\nbox = [64, 0, 128, 64]\n'
    )
    result = sample_to_folder(bases("sd1"), scene, tmp_path / "out", loras=[LoraUse(lora, 0.2)])
    with Image.open(result.files[0]) as image:
        said = image.info["parameters"]
        assert image.size == (128, 64)
    assert "[a cat <lora:garp:0.7>]-*-[]-*-[0, 0, 64, 64]|[a dog]-*-[]-*-[0, 64, 64, 128]" in said
    assert "garp: " in said
    settings = SampleSettings(steps=2, width=128, height=64, apart=0.5, regions=(CAT, DOG))
    plain = sample_to_folder(bases("sd1"), ["a meadow"], tmp_path / "plain", settings=settings)
    assert plain.files[0].read_bytes() != result.files[0].read_bytes()
    scene.write_text('[[regions]]\nprompt = "a cat"\n')
    with pytest.raises(LorasmithError, match="no `prompt` for the whole picture"):
        sample_to_folder(bases("sd1"), scene, tmp_path / "out")
