"""A LoRA file is trained again from its own metadata: the same bits, or the name of what is not the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from answers import Program
from PIL import Image
from safetensors.torch import load_file, save_file

import lorasmith
from lorasmith.core.errors import LorasmithError
from tests.conftest import make_pictures


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LoRA with public metadata, in `run`, and its images, which are somewhere else by now."""
    folder = tmp_path_factory.mktemp("made")
    images = make_pictures(folder / "10_secret", 4, (80, 72))
    train(images, folder / "run")
    images.rename(folder / "moved")
    return folder


@pytest.fixture
def made(made_once: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of both, to be changed."""
    folder = shutil.copytree(made_once, tmp_path / "made")
    return folder / "run" / "garp.safetensors", folder / "moved"


def train(images: Path, output: Path, **changes: Any) -> Path:
    table: dict[str, Any] = {
        "base": "tiny-sd",
        "output": str(output),
        "name": "garp",
        "trigger": ["garp"],
        "steps": 3,
        "seed": 5,
        "ema": 0.5,
        "data": {"images": str(images), "resolution": 64, "batch_size": 2},
        "adapter": {"rank": 2},
        "lr_schedule": "cosine",
        "export": {"dtype": "fp16", "every_steps": 2},
        "preview": {"prompts": ["secret"], "steps": 1, "width": 64, "height": 64, "at_end": False},
        "log": {"tensorboard": False},
    }
    file = lorasmith.train(table | changes, accept_remarks=True).file
    assert file is not None
    return file


def test_the_same_images_give_the_same_bits(here: Program, made: tuple[Path, Path], tmp_path: Path) -> None:
    file, images = made
    done = here("reproduce", file, "--data", images, "-o", tmp_path / "again", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert (result["identical"], result["differences"]) == (True, [])
    assert load_file(result["file"]).keys() == load_file(file).keys()
    assert "identical" in done.err
    assert "secret" not in str(file.read_bytes()[:20000])


def test_a_changed_picture_and_a_changed_caption_are_named(made: tuple[Path, Path], tmp_path: Path) -> None:
    file, images = made
    first, second = sorted(images.glob("*.png"))[:2]
    Image.new("RGB", (64, 64), "red").save(first)
    second.with_suffix(".txt").write_text("another caption of garp")
    result = lorasmith.reproduce(file, [images], output=tmp_path / "again")
    assert not result.identical
    assert result.comparison is not None
    assert 0 < result.comparison.cosine < 1
    assert result.differences == [
        f"trained images that were not in the run: {first.name}",
        "1 trained images of the run are not here",
        f"trained images with other captions, masks or settings: {second.name}",
    ]


@pytest.mark.slow
def test_a_file_of_the_middle_of_a_run(made: tuple[Path, Path], tmp_path: Path) -> None:
    file, images = made
    middle = file.with_name("garp-000002.safetensors")
    result = lorasmith.reproduce(middle, [images], output=tmp_path / "again")
    assert result.identical
    assert not lorasmith.reproduce(middle, [images], training=False).differences


def test_versions_base_and_device_that_differ_are_named(made: tuple[Path, Path], tmp_path: Path) -> None:
    from safetensors import safe_open

    file, images = made
    with safe_open(file, "pt") as opened:
        metadata = dict(opened.metadata())
    run = json.loads(metadata["lorasmith.run"])
    run["versions"]["torch"] = "1.0"
    run["base"]["vae"] = "0" * 16
    run |= {"device": "cuda", "device_name": "NVIDIA H100", "ranks": 2}
    other = tmp_path / "garp.safetensors"
    save_file(load_file(file), other, metadata | {"lorasmith.run": json.dumps(run)})
    differences = " / ".join(lorasmith.reproduce(other, [images], output=tmp_path / "again").differences)
    for words in ("torch 1.0 then", "device NVIDIA H100 then, cpu", "2 processes then", "other weights of vae"):
        assert words in differences


def test_a_file_that_was_changed_after_training(made: tuple[Path, Path]) -> None:
    file, images = made
    resized = lorasmith.resize(file, rank=1, base="tiny-sd").file
    (difference,) = lorasmith.reproduce(resized, [images], training=False).differences
    assert "changed after training" in difference
    assert "resized" in difference


@pytest.mark.slow
def test_what_the_file_cannot_tell_must_be_given(pictures: Callable[..., Path], tmp_path: Path) -> None:
    images = pictures(2)
    for caption in images.glob("*.txt"):
        caption.unlink()
    data = {"subsets": [{"images": str(images), "caption": "a secret garp"}], "resolution": 64}
    file = train(images, tmp_path / "run", data=data)
    with pytest.raises(LorasmithError, match=r"public metadata lack data\.subsets\.0\.caption"):
        lorasmith.reproduce(file, [images], training=False)
    again = ['data.subsets.0.caption="a secret garp"']
    assert lorasmith.reproduce(file, [images], overrides=again, training=False).differences == []
    config = tmp_path / "run" / "config.toml"
    assert lorasmith.reproduce(file, [images], config=config, training=False).differences == []
    with pytest.raises(LorasmithError, match="2 given, but the run has 1 sources"):
        lorasmith.reproduce(file, [images, images], overrides=again)


@pytest.mark.parametrize("change", [{"lorasmith.run": "[1"}, {"lorasmith.config": "a = = 1"}, {"lorasmith.config": ""}])
def test_metadata_that_are_damaged_or_missing(made: tuple[Path, Path], tmp_path: Path, change: dict[str, str]) -> None:
    from safetensors import safe_open

    file, images = made
    with safe_open(file, "pt") as opened:
        metadata = dict(opened.metadata()) | change
    other = tmp_path / "damaged.safetensors"
    save_file(load_file(file), other, metadata)
    with pytest.raises(LorasmithError, match=r"do not say how it was made|is damaged"):
        lorasmith.reproduce(other, [images])


def test_code_that_a_file_names_is_not_imported(made: tuple[Path, Path], tmp_path: Path) -> None:
    from safetensors import safe_open

    file, images = made
    (tmp_path / "evil_plugin.py").write_text("raise SystemExit")
    with safe_open(file, "pt") as opened:
        metadata = dict(opened.metadata())
    assert "plugins = []" in metadata["lorasmith.config"]
    config = metadata["lorasmith.config"].replace("plugins = []", 'plugins = ["evil_plugin"]')
    metadata["lorasmith.config"] = config
    other = tmp_path / "evil.safetensors"
    save_file(load_file(file), other, metadata)
    with pytest.raises(LorasmithError, match="names code to import: evil_plugin"):
        lorasmith.reproduce(other, [images])
