"""The embedded base, its judge, garp's pictures, and the pieces of the code that builds them."""

from __future__ import annotations

import json
import random
from importlib import resources
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from lorasmith.core.errors import LorasmithError
from lorasmith.evaluation.judge import Judge
from tools.tiny_base import backgrounds, captions, export, models, optim, render, sprites, store, tokenizer, train_vae
from tools.tiny_base.concepts import ALL_CONCEPTS, CONCEPTS, HELD_OUT

ASSETS = Path(str(resources.files("lorasmith").joinpath("assets")))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def garp() -> tuple[list[Image.Image], list[str]]:
    files = sorted((ASSETS / "garp").glob("*.png"))
    return [Image.open(f).convert("RGB") for f in files], [f.with_suffix(".txt").read_text().strip() for f in files]


@pytest.fixture(scope="module")
def bank() -> sprites.Bank:
    """One opaque red square in place of a picture."""
    pixels = torch.zeros(1, 4, sprites.SPRITE, sprites.SPRITE)
    pixels[:, 0], pixels[:, 3] = 1, 1
    return sprites.Bank(pixels.half(), torch.zeros(1, dtype=torch.long), ("",), (False,), ("square",))


def _pixels(images: list[Image.Image]) -> torch.Tensor:
    """(n, 3, 128, 128) in -1..1 of 128 px pictures."""
    raw = torch.stack([torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8).view(128, 128, 3) for i in images])
    return raw.permute(0, 3, 1, 2).float() / 127.5 - 1


def test_base_is_small():
    files = [f for f in (ASSETS / "tiny-sd").rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 32_000_000


def test_text_encoder_file_has_classic_names():
    with safe_open(ASSETS / "tiny-sd/text_encoder/model.safetensors", "pt") as file:
        assert all(key.startswith("text_model.") for key in file.keys())  # noqa: SIM118


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_weights_are_finite_halves(part: str):
    with safe_open(ASSETS / f"tiny-sd/{part}/diffusion_pytorch_model.safetensors", "pt") as file:
        tensors = [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118
    assert all(t.dtype == torch.float16 and t.isfinite().all() for t in tensors)


def test_vae_keeps_garp(garp):
    vae = AutoencoderKL.from_pretrained(ASSETS / "tiny-sd/vae", torch_dtype=torch.float32)
    images = [i.resize((128, 128), Image.Resampling.LANCZOS) for i in garp[0][:4]]
    assert train_vae.psnr(vae, _pixels(images)).mean() > 28


def test_judge_knows_garp(garp):
    assert Judge.load().concept(garp[0]).share("garp") == 1.0


def test_judge_reads_backgrounds(garp):
    """What it says of each picture fits the words of the caption."""
    images, texts = garp
    named = Judge.load().background(images).names
    fits = [
        any(text.endswith(phrase) for phrase in backgrounds.SCENES[name].phrases)
        if name in backgrounds.SCENES
        else f" {name} " in text
        for name, text in zip(named, texts, strict=True)
    ]
    assert all(fits), list(zip(named, texts, strict=True))


def test_judge_takes_tensors_and_pictures_alike(garp):
    judge = Judge.load()
    small = [i.resize((128, 128), Image.Resampling.LANCZOS) for i in garp[0][:2]]
    torch.testing.assert_close(judge.concept(_pixels(small)).table, judge.concept(small).table)


def test_judge_does_not_see_garp_in_noise():
    noise = torch.rand(8, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert Judge.load().concept(noise).share("garp") == 0


def test_judge_missing_says_where(tmp_path: Path):
    with pytest.raises(LorasmithError, match=r"judge\.json"):
        Judge.load(tmp_path)


def test_judge_names_match_the_tables():
    names = json.loads((ASSETS / "tiny-sd/judge/judge.json").read_text())
    assert names["concepts"] == [*(c.name for c in CONCEPTS), "garp", "other"]


def test_garp_has_masks_of_its_pictures(garp):
    masks = [Image.open(f) for f in sorted((ASSETS / "garp/masks").glob("*.png"))]
    assert [m.size for m in masks] == [i.size for i in garp[0]]


def test_nothing_held_out_is_trained():
    assert not set(HELD_OUT) & {c.file for c in ALL_CONCEPTS}


def test_every_concept_has_one_name_and_one_picture():
    assert len({c.name for c in ALL_CONCEPTS}) == len({c.file for c in ALL_CONCEPTS}) == len(ALL_CONCEPTS)


def test_training_goes_on_from_the_shipped_weights(tmp_path: Path):
    export.unpack(ASSETS / "tiny-sd", tmp_path)
    unet, text, vae = models.unet(), models.text_encoder(), models.vae()
    store.load(tmp_path / "unet.raw.safetensors", {"unet": unet, "text": text})
    store.load(tmp_path / "vae.ema.safetensors", {"vae": vae})
    own = {"unet": unet.state_dict(), "vae": vae.state_dict(), "text_encoder": models.text_state(text)}
    for part, state in own.items():
        (file,) = (ASSETS / "tiny-sd" / part).glob("*.safetensors")
        shipped = load_file(file)
        assert shipped.keys() == state.keys()
        assert all(torch.equal(shipped[name].float(), state[name]) for name in shipped)


def test_shipped_tokenizer_is_the_built_one(tmp_path: Path):
    tokenizer.write(tmp_path)
    shipped = (ASSETS / "tiny-sd/tokenizer/vocab.json").read_text()
    assert json.loads(shipped) == json.loads((tmp_path / "vocab.json").read_text())


def test_frequent_words_split_as_clip_splits_them():
    """A word whose merges are all in the prefix has the ids that the whole of CLIP's tokenizer gives."""
    tiny = CLIPTokenizer.from_pretrained(ASSETS / "tiny-sd/tokenizer")
    full = CLIPTokenizer(str(ASSETS / "clip/vocab.json"), str(ASSETS / "clip/merges.txt"))
    text = "a photo of a red car, on a blue house"
    assert tiny(text).input_ids[1:-1] == full(text).input_ids[1:-1]


def test_tokens_are_padded_with_the_end():
    tiny = CLIPTokenizer.from_pretrained(ASSETS / "tiny-sd/tokenizer")
    ids = tiny("dog", padding="max_length", max_length=77).input_ids
    assert ids[0] == tokenizer.BOS
    assert ids[2:] == [tokenizer.EOS] * 75


def test_vae_starts_near_the_identity(bank: sprites.Bank):
    torch.manual_seed(0)
    images = render.render(bank, torch.zeros(4, dtype=torch.long), torch.Generator().manual_seed(1)).images
    assert train_vae.psnr(models.vae(), images).mean() > 12


def test_composites_repeat_with_their_seed(bank: sprites.Bank):
    first, second = (render.render(bank, torch.zeros(3).long(), torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.images, second.images)


def test_mask_is_where_the_sprite_is(bank: sprites.Bank):
    """Behind a red square on blue: red exactly where the mask is full."""
    blue = torch.full((6,), backgrounds.NAMES.index("blue"))
    batch = render.render(bank, torch.zeros(6).long(), torch.Generator().manual_seed(2), blue)
    inside = batch.masks[:, 0] > 0.99
    red = batch.images[:, 0][inside]
    assert (red > 0.95).all()
    assert (batch.images[:, 0][batch.masks[:, 0] < 0.01] < 0).all()


@pytest.mark.parametrize("kind", range(len(backgrounds.NAMES)))
def test_backgrounds_stay_in_range(kind: int):
    drawn, _, _ = render.draw_backgrounds(2, torch.Generator().manual_seed(kind), torch.full((2,), kind))
    assert drawn.min() >= 0
    assert drawn.max() <= 1


def test_captions_take_the_right_article():
    assert [captions.with_article(w) for w in ("apple", "ufo", "umbrella", "grapes")] == [
        "an apple",
        "a ufo",
        "an umbrella",
        "grapes",
    ]


def test_places_name_their_background():
    words = captions.place(backgrounds.NAMES.index("orange"), (0, 0), random.Random(0))
    assert words == "on an orange background"


def test_orthogonalised_has_singular_values_near_one():
    matrices = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(optim.orthogonalise(matrices).float())
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_checkpoints_come_back(tmp_path: Path):
    model, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    store.save(tmp_path / "x.safetensors", {"m": model})
    store.load(tmp_path / "x.safetensors", {"m": other})
    torch.testing.assert_close(other.weight, model.weight.half().float())
