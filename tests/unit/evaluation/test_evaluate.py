"""Measures of pictures: the numbers, the scorers, the errors, and what is kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import lorasmith
from lorasmith.core.errors import LorasmithError
from lorasmith.core.hub import hub_is_reachable
from lorasmith.evaluation.base import Features
from lorasmith.evaluation.clip import Clip
from lorasmith.evaluation.measure import highest_similarity, mean_score, measure, text_alignment
from lorasmith.evaluation.pictures import read_prompt
from lorasmith.evaluation.prompts import load_prompts, reference_text
from lorasmith.evaluation.settings import EvaluateSettings


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights, saved as transformers saves it."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    folder = tmp_path_factory.mktemp("clip")
    home = Path(str(resources.files("lorasmith").joinpath("assets/tiny-sd/tokenizer")))
    for file in home.iterdir():
        shutil.copy(file, folder / file.name)
    shared: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    shared |= {"num_attention_heads": 2}
    text = CLIPTextConfig(**shared, vocab_size=49408, max_position_embeddings=77)
    vision = CLIPVisionConfig(**shared, image_size=32, patch_size=8)
    torch.manual_seed(0)
    CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12)
    ).save_pretrained(folder)
    return folder


def unit(*shape: int) -> np.ndarray:
    values = np.random.default_rng(sum(shape)).normal(size=shape)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def test_numbers_are_those_of_the_paper() -> None:
    pictures, texts, training = unit(7, 5), unit(7, 5) * 1.0, unit(3, 5)
    texts[2] = -pictures[2]
    seen, known = (Features(torch.from_numpy(v), torch.from_numpy(v)) for v in (pictures, training))
    found = measure(seen, torch.from_numpy(texts), known, most=2)
    cosines = [float(p @ t) for p, t in zip(pictures, texts, strict=True)]
    assert float(text_alignment(found.text).mean()) == pytest.approx(np.mean([2.5 * max(c, 0) for c in cosines]))
    assert mean_score(found.image) == pytest.approx(np.mean([[p @ t for t in training] for p in pictures]))
    table = pictures @ training.T
    assert [n.cosine for n in found.nearest] == pytest.approx(sorted(table.max(1))[::-1][:2])
    assert (found.nearest[0].picture, found.nearest[0].training) == np.unravel_index(table.argmax(), table.shape)
    assert highest_similarity(known) == pytest.approx(
        max(training[0] @ training[1], training[0] @ training[2], training[1] @ training[2])
    )
    assert highest_similarity(Features(known.image[:1], known.text[:1])) is None


def test_a_mean_leaves_out_what_is_unknown() -> None:
    values = torch.tensor([1.0, float("nan"), 3.0])
    assert mean_score(values) == 2
    assert mean_score(values, [1]) is None


def test_clip_sees_as_transformers_does(clip: Path, tmp_path: Path) -> None:
    from transformers import CLIPModel, CLIPTokenizer

    values = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    images = [Image.fromarray(values), Image.fromarray(values[::-1].copy())]
    extractor = Clip(model=str(clip), batch_size=1).load(torch.device("cpu"))
    texts = ["a photo of a dog", "a bird on a much longer text than that"]
    seen, read = extractor.pictures(images), extractor.texts(texts)
    model: Any = CLIPModel.from_pretrained(clip)
    tokens = CLIPTokenizer.from_pretrained(clip)(texts, padding=True, return_tensors="pt")
    pixels = []
    for image in images:
        small = image.resize((45, 32), Image.Resampling.BICUBIC).crop((6, 0, 38, 32))
        scaled = np.asarray(small, dtype=np.float64) / 255
        normed = (scaled - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
        pixels.append(torch.from_numpy(normed).permute(2, 0, 1).float())
    with torch.no_grad():
        answer = model.eval()(**tokens, pixel_values=torch.stack(pixels))
    torch.testing.assert_close(seen.image, answer.image_embeds, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(read, answer.text_embeds, atol=1e-5, rtol=1e-4)


def test_a_clip_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(LorasmithError, match="no CLIP model can be loaded"):
        Clip(model=str(tmp_path / "none")).load(torch.device("cpu"))


@pytest.mark.parametrize(("reachable", "tries"), [(False, [True]), (True, [True, False])])
def test_the_hub_is_asked_only_if_it_can_be_reached(
    monkeypatch: pytest.MonkeyPatch, reachable: bool, tries: list[bool]
) -> None:
    """The folder and the cache are looked at first; without a connection nothing else is tried."""
    from transformers import CLIPModel

    seen: list[bool] = []

    def from_pretrained(name: str, local_files_only: bool) -> Any:
        seen.append(local_files_only)
        raise OSError("not there")

    monkeypatch.setattr(CLIPModel, "from_pretrained", from_pretrained)
    monkeypatch.setattr("lorasmith.evaluation.pretrained.hub_is_reachable", lambda: reachable)
    with pytest.raises(LorasmithError, match=r"not there|cannot be reached(.|\n)*--model"):
        Clip(model="owner/clip").load(torch.device("cpu"))
    assert seen == tries


def test_a_client_that_is_set_offline_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub_is_reachable()


@pytest.mark.parametrize("name", ["object", "character", "scene"])
def test_built_in_sets_have_twenty_prompts_for_the_concept(name: str) -> None:
    prompts = load_prompts(name)
    assert len(prompts) == 20
    assert all("<TOK>" in prompt for prompt in prompts)


def test_wrong_prompts_are_told(tmp_path: Path) -> None:
    with pytest.raises(LorasmithError, match='did you mean "object"'):
        load_prompts("objects")
    file = tmp_path / "p.txt"
    file.write_text("# none\na photo of a dog\n")
    with pytest.raises(LorasmithError, match=r"<TOK> is in none of its prompts.*a photo of a dog"):
        load_prompts(str(file))


def test_texts_are_measured_with_the_class_word() -> None:
    settings = EvaluateSettings(trigger="<g1> <g2>", class_word="robot")
    assert reference_text("a <TOK> in snow", settings) == "A photo depicts a robot in snow"
    assert reference_text("a <g1> <g2> in snow", settings) == "A photo depicts a robot in snow"
    words = EvaluateSettings(trigger="mia", class_word="woman")
    assert reference_text("mia in miami", words) == "A photo depicts woman in miami"


def test_prompts_are_read_from_pictures(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("parameters", "a red dog <lora:mia:0.8>\nNegative prompt: blurry\nSteps: 20, Seed: 1")
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    assert read_prompt(path) == "a red dog"
    (tmp_path / "a.txt").write_text("a blue dog\n")
    assert read_prompt(path) == "a blue dog"


def test_a_copied_training_image_is_found(clip: Path, pictures: Callable[..., Path], tmp_path: Path) -> None:
    folder = pictures(4)
    others = pictures(6, name="drawn")
    for file in [*others.glob("*.txt"), *list(others.glob("0[0-3].png"))]:
        file.unlink()
    shutil.copy(folder / "02.png", others / "copy.png")
    found = lorasmith.evaluate(
        folder, drawn=[others], output=tmp_path / "out", settings={"scorer": {"kind": "clip", "model": str(clip)}}
    )
    near = found.rows[0].measurement.nearest[0]
    assert found.rows[0].pictures[near.picture].path.name == "copy.png"
    assert found.training[near.training].name == "02.png"
    assert near.cosine == pytest.approx(1, abs=1e-5)
    numbers = found.to_dict()["rows"][0]
    assert numbers["text_alignment"] is None
    assert numbers["pictures"] == 3
    assert "above" in found.report.read_text()
