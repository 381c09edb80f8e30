"""Configs from few answers: every one is valid, fits its card, and says why."""

from __future__ import annotations

import itertools
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from lorasmith import api
from lorasmith.api.first_config import complete, make_config, step_gib
from lorasmith.api.recipe import LITTLE_MEMORY, SHORT_PROMPTS, SUBJECTS, TAG_PROMPTS, Answers, recipe
from lorasmith.core.errors import LorasmithError
from lorasmith.diffusion.weightings.min_snr import MinSnr
from lorasmith.families.published_models import published_model
from tests.transformer_bases import write_sd3

BASES = {
    "tiny": Answers("tiny-sd", "photos", "runs/mia"),
    "sd15": Answers("sd15.safetensors", 'my "photos"', "runs/mia"),
    "sd21": Answers("sd21.safetensors", "photos", "runs/mia", resolution=768, kind="sd2", prediction="v_prediction"),
    "sdxl": Answers("xl.safetensors", "photos", "runs/mia", resolution=1024, kind="sdxl"),
    "noobai": Answers(
        "noob.safetensors", "photos", "runs/mia", resolution=1024, kind="sdxl", prediction="v_prediction", tags=True
    ),
}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_config_is_valid_and_fits(base: str, subject: str) -> None:
    # an orthogonal array: every two values of two answers come together in one of the eight
    for (i, memory), many in itertools.product(enumerate((6, 8, 12, 24)), (False, True)):
        count = 30 if many else 3
        trigger = "mia" if many == bool(i & 1) else ""
        layerwise = many != bool(i & 2)
        answers = replace(
            BASES[base], subject=subject, memory=memory, count=count, trigger=trigger, layerwise=layerwise
        )
        made = complete(answers, ["a title"])
        config = api.read_config(tomllib.loads(made.text))
        assert made.text.startswith("# a title\n")
        assert (config.base, str(config.data.images)) == (answers.base, answers.images)
        assert config.trigger == ((trigger,) if trigger else ())
        assert config.zero_terminal_snr == (base == "noobai")
        assert (config.optimizer.text_lr > 0) == made.answers.trains_text
        if made.forecast is not None:
            assert made.forecast.gib <= memory
            assert config.data.batch_size == made.forecast.batch
        assert config.preview is not None
        assert isinstance(config.preview.prompts, tuple)
        # without a trigger, prompts can be the same
        assert len(config.preview.prompts) == 4 if trigger else len(config.preview.prompts) >= 2


def test_prompts_of_tags_are_there_for_every_subject() -> None:
    assert TAG_PROMPTS.keys() == SHORT_PROMPTS.keys() == SUBJECTS.keys()


def test_pure_noise_is_trained_where_the_base_starts_from_it() -> None:
    """min-SNR gives pure noise no weight, so a base that starts there gets no weighting; others get it."""
    noobai, sd21 = (api.read_config(tomllib.loads(recipe(BASES[name]))).objective for name in ("noobai", "sd21"))
    assert noobai.weightings == ()  # type: ignore[attr-defined]
    assert isinstance(sd21.weightings[0], MinSnr)  # type: ignore[attr-defined]


def test_little_memory_trains_the_unet_alone_so_that_captions_can_be_cached() -> None:
    little, more = (replace(BASES["sd15"], memory=memory) for memory in (LITTLE_MEMORY - 1, LITTLE_MEMORY))
    assert (little.trains_text, more.trains_text) == (False, True)
    assert not replace(BASES["noobai"], memory=8).captions_change


def test_a_larger_card_never_gets_smaller_steps_or_a_higher_level() -> None:
    for base in ("sd15", "sd21", "sdxl"):
        found = [complete(replace(BASES[base], memory=memory)).forecast for memory in (6, 8, 12, 16, 24, 48)]
        batches = [each.batch for each in found if each is not None]
        assert batches == sorted(batches)


def test_the_forecast_grows_with_the_batch_and_falls_with_the_level() -> None:
    by_batch = [step_gib(BASES["sdxl"], published_model("sdxl"), batch, 0) for batch in (1, 2, 4)]
    by_level = [step_gib(BASES["sdxl"], published_model("sdxl"), 1, level) for level in (0, 1, 2, 3)]
    assert by_batch == sorted(by_batch)
    assert by_level == sorted(by_level, reverse=True)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(12):
        Image.new("RGB", (16, 16)).save(folder / f"{i}.png")
    return folder


def test_the_base_is_identified_and_the_images_are_counted(photos: Path) -> None:
    made = make_config("tiny-sd", str(photos), "runs/x", "mia")
    assert (made.answers.kind, made.answers.resolution, made.answers.count) == ("sd1", 128, 12)
    assert made.forecast is None


def test_the_forecast_is_that_of_the_base_and_not_of_the_published_model(photos: Path, tmp_path: Path) -> None:
    """A small SD3 needs next to nothing; SD3.5 medium, the published model of its family, needs gigabytes."""
    small = make_config(str(write_sd3(tmp_path / "small")), str(photos), "runs/x", "mia")
    assert small.forecast is not None
    assert (small.answers.kind, small.forecast.level, small.forecast.batch) == ("sd3", 0, 4)
    assert small.forecast.gib < 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"subject": "charakter"}, ("charakter", 'did you mean "character"', "style")),
        ({"memory": 0.0}, ("0 GiB", "1 to 1000")),
        ({"memory": float("nan")}, ("nan", "1 to 1000")),
        ({"base": "missing.safetensors"}, ("missing.safetensors", "no such file")),
        ({"images": "missing"}, ("missing", "not a folder")),
    ],
)
def test_mistakes_are_named(photos: Path, changes: dict[str, object], words: tuple[str, ...]) -> None:
    answers = {"base": "tiny-sd", "images": str(photos), "output": "runs/x"} | changes
    with pytest.raises(LorasmithError) as caught:
        make_config(**answers)  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in words)


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(LorasmithError, match="holds no image"):
        make_config("tiny-sd", str(tmp_path), "runs/x")
