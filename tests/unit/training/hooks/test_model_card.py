"""README.md beside the files of a run, and the file of all new tokens that it may speak of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

import lorasmith
from lorasmith.core.progress import Lines
from lorasmith.training.config import load_config
from lorasmith.training.output.model_card import MARK
from lorasmith.training.session import train

TINY_SD = Path(lorasmith.__file__).parent / "assets" / "tiny-sd"
CARD = {"kind": "model_card", "repo": "us/garp", "prompt": "a photo of garp", "usage": ["pipe.load_it(repo)"]}


def table(base: Path, images: Path, output: Path, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "base": str(base),
        "output": str(output),
        "name": "garp",
        "trigger": "garp",
        "steps": 2,
        "data": {"images": str(images), "resolution": 64, "batch_size": 3},
        "adapter": {"rank": 2, "layers": ["*.attn1.to_k"]},
        "log": {"tensorboard": False},
        "hooks": [CARD],
    }
    return settings | changes


def head_of(text: str) -> dict[str, Any]:
    """The YAML at the top of a page."""
    return yaml.safe_load(text.split("---\n")[1])


def test_a_page_without_pictures(pictures: Callable[..., Path], tmp_path: Path, bases: Callable[[str], Path]) -> None:
    run = tmp_path / "run"
    train(load_config(table(bases("sd1"), pictures(3), run)))
    text = (run / "README.md").read_text()
    head = head_of(text)
    # The hub refuses a base that is not a repository, and the licence is the author's to choose.
    assert "base_model" not in head
    assert "license" not in head
    assert "Not stated yet" in text
    assert head["instance_prompt"] == "a photo of garp"
    assert {"lora", "stable-diffusion", "text-to-image"} <= set(head["tags"])
    assert "`sd1`" in text
    assert "Write `garp` into the prompt." in text
    assert "pipe.load_it(repo)" in text
    for row in ("| steps | 2 |", "| images in a step | 3 |", "| rank | 2 |", "| seed | 0 |"):
        assert row in text
    assert str(tmp_path) not in text


def test_previews_and_a_licence(pictures: Callable[..., Path], tmp_path: Path, bases: Callable[[str], Path]) -> None:
    run = tmp_path / "run"
    preview = {"prompts": ["garp", "a [red] dog"], "steps": 1, "count": 2, "compare_base": False}
    train(load_config(table(bases("sd1"), pictures(3), run, preview=preview, metadata={"license": "openrail"})))
    text = (run / "README.md").read_text()
    head = head_of(text)
    assert head["license"] == "openrail"
    assert [entry["text"] for entry in head["widget"]] == ["garp", "garp", "a [red] dog", "a [red] dog"]
    assert "![a  red  dog](./image_3.png)" in text
    for entry in head["widget"]:
        picture = (run / entry["output"]["url"]).read_bytes()
        assert b"tEXt" not in picture, "a preview's file holds more than a page should show"
    cards = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines() if '"card"' in line]
    assert [card["file"] for card in cards] == [f"image_{i}.png" for i in range(4)] + ["README.md"]


def test_the_page_of_somebody_else_is_kept(
    pictures: Callable[..., Path], tmp_path: Path, bases: Callable[[str], Path]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    page = run / "README.md"
    page.write_text("mine\n")
    lines: list[str] = []
    train(load_config(table(bases("sd1"), pictures(3), run)), progress=Lines(lines.append))
    assert page.read_text() == "mine\n"
    assert any("README.md is kept" in line for line in lines)
    # A page with the mark is an older one of ours.
    page.write_text(f"old\n{MARK}\n")
    (run / "config.toml").unlink()
    train(load_config(table(bases("sd1"), pictures(1, name="one"), run)), progress=Lines(lines.append))
    assert "| steps | 2 |" in page.read_text()


@pytest.mark.slow_except("sd1*")
@pytest.mark.parametrize(("kind", "names"), [("sd1", ["clip_l"]), ("sdxl", ["clip_g", "clip_l"])])
def test_all_new_tokens_in_one_file(
    kind: str, names: list[str], bases: Callable[[str], Path], pictures: Callable[..., Path], tmp_path: Path
) -> None:
    """A stock pipeline takes each text encoder's tensor, with a token for each vector."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    run = tmp_path / "run"
    concepts = [{"words": ["<s0>", "<s1>"], "init": "dog"}]
    changes = {"concepts": concepts, "hooks": [{"kind": "joined_words"}], "trigger": "<s0>"}
    train(load_config(table(bases(kind), pictures(3), run, **changes)), accept_remarks=True)
    tensors = load_file(run / "garp_emb.safetensors")
    assert sorted(tensors) == names
    if kind == "sd1":  # tests/e2e has a whole pipeline of this kind
        return

    folder = bases("sdxl")
    pipeline: Any = StableDiffusionXLPipeline
    pipe = pipeline(
        vae=None,
        unet=None,
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2"),
        tokenizer=CLIPTokenizer.from_pretrained(TINY_SD / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(TINY_SD / "tokenizer"),
        scheduler=EulerDiscreteScheduler(),
    )
    parts = {"clip_l": ("text_encoder", "tokenizer"), "clip_g": ("text_encoder_2", "tokenizer_2")}
    for name, vectors in tensors.items():
        encoder, tokenizer = (getattr(pipe, part) for part in parts[name])
        pipe.load_textual_inversion(vectors, token=["<s0>", "<s1>"], text_encoder=encoder, tokenizer=tokenizer)
        table_of = encoder.get_input_embeddings().weight
        for number in (0, 1):
            assert table_of[tokenizer.convert_tokens_to_ids(f"<s{number}>")].equal(vectors[number])
