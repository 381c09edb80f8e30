"""What every transform promises, over the registry, and what each one means."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorasmith.core.config import validate
from lorasmith.core.registry import registered
from lorasmith.core.rng import python_random
from lorasmith.data.config import DataConfig
from lorasmith.data.placement import Placement
from lorasmith.data.transforms import CaptionTransform, ImageTransform, TrainingProgress, Transform
from lorasmith.data.transforms.base import Sample

NEEDED: dict[str, dict[str, Any]] = {
    "template": {"templates": ["a photo of {caption}", "{caption}, drawn"]},
    "trigger": {"words": "garp"},
    "replace": {"words": {"cat": "<cat1> <cat2>"}},
    "tags": {"shuffle": True},
}
"""Settings without a default, or with which a kind does something."""

COLOURS = {"color"}
"""They leave everything in its place."""
BY_STEP = {"tag_warmup"}
"""What they do follows from the step alone, not from chance."""

KINDS = sorted(registered(Transform))
CAPTION = "garp, red hat, on a beach, smiling, {at night|by day}"


def make(kind: str, **settings: Any) -> Any:
    table = {"images": "x", "transforms": [{"kind": kind, **NEEDED.get(kind, {}), **settings}]}
    return validate(DataConfig, table).transforms[0]


def sample(mask: bool = True) -> Sample:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (16, 24, 3), dtype=np.uint8)
    return Sample(pixels, random.random((16, 24), dtype=np.float32) if mask else None)


CAPTION_KINDS = [k for k in KINDS if isinstance(make(k), CaptionTransform)]
IMAGE_KINDS = [k for k in KINDS if isinstance(make(k), ImageTransform)]


def test_each_kind_changes_captions_or_images() -> None:
    assert sorted(CAPTION_KINDS + IMAGE_KINDS) == KINDS
    assert {"shuffle", "tag_dropout", "caption_dropout", "template"} <= set(CAPTION_KINDS)
    assert {"flip", "random_crop"} <= set(IMAGE_KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_survives_its_own_dump(kind: str) -> None:
    transform = make(kind)
    assert make(**transform.model_dump()) == transform


@pytest.mark.parametrize("kind", CAPTION_KINDS)
def test_a_caption_follows_from_the_position(kind: str) -> None:
    transform = make(kind)

    def texts(seed: int) -> list[str]:
        return [
            transform.at(TrainingProgress(epoch, epoch, 80))(CAPTION, python_random(seed, "caption", epoch))
            for epoch in range(40)
        ]

    assert texts(0) == texts(0)
    assert transform.random == (len(set(texts(0))) > 1)
    if transform.random and kind not in BY_STEP:
        assert texts(0) != texts(1)


@pytest.mark.parametrize("kind", CAPTION_KINDS)
@pytest.mark.parametrize("caption", [CAPTION, "one", "", ",", "a,,b, "])
def test_outcomes_are_all_there_is(kind: str, caption: str) -> None:
    transform = make(kind)
    possible = transform.outcomes(caption)
    seen = {transform.at(TrainingProgress(i, i, 400))(caption, Random(i)) for i in range(300)}
    assert all(isinstance(text, str) for text in seen)
    assert possible is None or possible == seen


@pytest.mark.parametrize("kind", IMAGE_KINDS)
@pytest.mark.parametrize("mask", [True, False])
def test_an_image_keeps_its_form_and_its_variants_are_fixed(kind: str, mask: bool) -> None:
    transform, original = make(kind), sample(mask)
    assert transform.variants is None or transform.variants >= 1
    assert transform.random == (transform.variants != 1)
    for variant in range(transform.variants or 9):
        first, second = transform.apply(original, variant), transform.apply(original, variant)
        assert np.array_equal(first.pixels, second.pixels)
        assert first.pixels.dtype == np.uint8
        assert first.pixels.shape == original.pixels.shape
        assert (first.mask is None) == (original.mask is None)
        cut = transform.cut(Path("a_12_8_9_7.png"), (48, 32), Placement((24, 16), (30, 20)), variant)
        assert cut is None or transform.cuts
        if transform.cuts:
            assert first is original, "what places the crop changes nothing else"
        if cut is not None:
            left, top, right, bottom = cut.box
            assert (right - left, bottom - top) == (24, 16)
    assert np.array_equal(original.pixels, sample(mask).pixels), "the original was written to"


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_a_mask_follows_its_image(kind: str) -> None:
    """A mask painted from the pixels still fits them afterwards."""
    transform = make(kind)
    if kind in COLOURS:
        assert all(transform.apply(sample(), v).mask is not None for v in range(9))
        return
    pixels = sample().pixels
    painted = Sample(pixels, (pixels[:, :, 0] / 255).astype(np.float32))
    for variant in range(transform.variants or 9):
        changed = transform.apply(painted, variant)
        assert np.array_equal(changed.mask, (changed.pixels[:, :, 0] / 255).astype(np.float32))


TAGS = st.lists(st.text("abc ", min_size=1, max_size=4).map(str.strip).filter(bool), max_size=8)


@given(TAGS, st.integers(0, 5), st.integers(0, 99))
def test_shuffle_keeps_all_tags_and_the_first_in_place(tags: list[str], keep: int, seed: int) -> None:
    got = make("shuffle", keep=keep)(", ".join(tags), Random(seed)).split(", ") if tags else []
    assert sorted(got) == sorted(tags)
    assert got[:keep] == tags[:keep]


def test_shuffle_reaches_every_order() -> None:
    shuffle = make("shuffle", keep=1)
    seen = {shuffle("a, b, c, d", Random(i)) for i in range(200)}
    assert len(seen) == 6
    assert make("shuffle", keep=0, separator="|")("a | b", Random(0)) in ("a| b", "b| a")


@given(TAGS, st.integers(0, 5), st.integers(0, 99))
def test_tag_dropout_keeps_the_order_and_the_first(tags: list[str], keep: int, seed: int) -> None:
    text = make("tag_dropout", keep=keep, rate=0.5)(", ".join(tags), Random(seed))
    got = iter(text.split(", ") if text else [])
    rest = list(tags)
    assert text.split(", ")[: len(tags[:keep])] == tags[:keep] or not tags[:keep]
    for tag in got:
        assert tag in rest
        del rest[: rest.index(tag) + 1]


@pytest.mark.parametrize(("kind", "left"), [("tag_dropout", "garp"), ("caption_dropout", "")])
def test_dropout_rates(kind: str, left: str) -> None:
    assert make(kind, rate=0.0)(CAPTION, Random(0)) == CAPTION
    assert not make(kind, rate=0.0).random
    assert make(kind, rate=1.0)(CAPTION, Random(0)) == left
    transform = make(kind, rate=0.25)
    texts = [transform(CAPTION, Random(i)) for i in range(2000)]
    tags = [tag for text in texts for tag in text.split(", ")[1:]]
    assert len(tags) / (2000 * 4) == pytest.approx(0.75, abs=0.03)


def test_all_captions_are_left_out_every_so_many_epochs() -> None:
    dropout = make("caption_dropout", rate=0.0, every_epochs=3)
    texts = [dropout.at(TrainingProgress(epoch))(CAPTION, Random(0)) for epoch in range(7)]
    assert [text == "" for text in texts] == [False, False, True, False, False, True, False]
    assert dropout.random
    assert dropout.outcomes(CAPTION) == {CAPTION, ""}


@given(st.integers(0, 12), st.integers(0, 4), st.integers(0, 3), st.integers(1, 30), st.integers(0, 40))
def test_tags_come_little_by_little(tags: int, start: int, keep: int, until: int, step: int) -> None:
    every = [f"t{i}" for i in range(tags + keep)]
    found = make("tag_warmup", until=until, start=start, keep=keep).at(TrainingProgress(0, step, 99))(
        ", ".join(every), Random(0)
    )
    n = tags
    wanted = math.floor(step * Fraction(n - start, until)) + start if step < until else n  # sd-scripts' formula
    assert found == ", ".join(every[: keep + min(n, wanted)])


def test_warmup_by_share_of_the_run_and_between_separators() -> None:
    warmup = make("tag_warmup", until=0.5, start=1, keep_separator="|||")
    caption = "girl, garp ||| a, b, c ||| best"
    texts = [warmup.at(TrainingProgress(0, step, 8))(caption, Random(0)) for step in range(5)]
    assert texts == [
        "girl, garp ||| a ||| best",
        "girl, garp ||| a ||| best",
        "girl, garp ||| a, b ||| best",
        "girl, garp ||| a, b ||| best",
        caption,
    ]
    tags = make("tags", keep_separator="|||", shuffle=False)
    assert tags(texts[0], Random(0)) == "girl, garp, a, best"
    nothing = make("tag_warmup", until=4, start=0, keep_separator="|||").at(TrainingProgress(0, 0, 8))(
        caption, Random(0)
    )
    assert tags(nothing, Random(0)) == "girl, garp, best"


def test_template() -> None:
    assert make("template", templates=["{caption}, best quality"])("a cat", Random(0)) == "a cat, best quality"
    assert not make("template", templates=["x {caption}"]).random
    texts = {make("template")("{caption}", Random(i)) for i in range(50)}
    assert texts == {"a photo of {caption}", "{caption}, drawn"}


def test_flip() -> None:
    flip, original = make("flip"), sample()
    assert flip.apply(original, 0) is original
    mirrored = flip.apply(original, 1)
    assert np.array_equal(mirrored.pixels, original.pixels[:, ::-1])
    assert np.array_equal(mirrored.mask, original.mask[:, ::-1])


def test_random_crop_goes_from_end_to_end() -> None:
    place = Placement((24, 16), (24, 20))
    boxes = [make("random_crop", places=5).cut(Path("a.png"), (48, 40), place, i).box for i in range(5)]
    assert [box[1] for box in boxes] == [0, 1, 2, 3, 4]
