"""The layouts of the library `datasets` in which diffusers' scripts find images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lorasmith.compat.script import Conversion, find_script
from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.data.dataset import Dataset
from lorasmith.training.config import load_config

Run = Callable[..., Conversion]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a folder of pictures, all different, and metadata tables of the captions of some."""

    def make(pictures: list[str], tables: dict[str, dict[str, str]]) -> Path:
        monkeypatch.chdir(tmp_path)
        for i, name in enumerate(pictures):
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), (i * 40, 0, 0)).save(path)
        for name, captions in tables.items():
            rows = [json.dumps({"file_name": file, "text": text}) for file, text in captions.items()]
            (tmp_path / "set" / name).write_text("\n".join(rows))
        return tmp_path / "set"

    return make


def convert(script: str, *more: str) -> Conversion:
    chosen = find_script(script)
    start = ["--pretrained_model_name_or_path=x", "--output_dir=out", "--resolution=64", "--train_batch_size=1"]
    return chosen.convert(chosen.parse([*start, *more]))


def captions_of(conversion: Conversion) -> dict[str, tuple[str, ...]]:
    config = load_config(conversion.config)
    dataset = Dataset.build(config.data, seed=0, default_caption="" if not config.data.empty_captions else None)
    return {record.path.name: record.captions for record in dataset.records}


LAYOUTS = [
    (["train/a.png", "train/b.png"], {"train/metadata.jsonl": {"a.png": "one", "b.png": "two"}}),
    (["train/a.png", "train/b.png"], {"metadata.jsonl": {"train/a.png": "one", "train/b.png": "two"}}),
    (["a.png", "deep/er/b.png"], {"metadata.jsonl": {"a.png": "one", "deep/er/b.png": "two"}}),
    (["x/a.png", "y/b.png"], {"x/metadata.jsonl": {"a.png": "one"}, "y/metadata.jsonl": {"b.png": "two"}}),
]


@pytest.mark.parametrize("option", ["--train_data_dir=set", "--dataset_name=set"])
@pytest.mark.parametrize(("pictures", "tables"), LAYOUTS)
def test_metadata_in_any_folder(
    pictures: list[str], tables: dict[str, dict[str, str]], option: str, folder: Callable[..., Path]
) -> None:
    folder(pictures, tables)
    found = convert("train_text_to_image_lora", option, "--num_train_epochs=3")
    assert captions_of(found) == {"a.png": ("one",), "b.png": ("two",)}
    assert found.config["steps"] == 6


def test_of_a_data_set_only_the_part_train_is_used(folder: Callable[..., Path]) -> None:
    """A folder of training images is used whole."""
    rows = {"train/metadata.jsonl": {"a.png": "one"}, "test/metadata.jsonl": {"b.png": "two"}}
    folder(["train/a.png", "test/b.png"], rows)
    assert captions_of(convert("train_text_to_image_lora", "--dataset_name=set")).keys() == {"a.png"}
    assert captions_of(convert("train_text_to_image_lora", "--train_data_dir=set")).keys() == {"a.png", "b.png"}


def test_class_folders_with_caption_files(folder: Callable[..., Path]) -> None:
    source = folder(["cat/a.png", "10_dog/b.png"], {})
    (source / "cat/a.txt").write_text("one")
    (source / "10_dog/b.txt").write_text("two")
    found = convert("train_text_to_image_lora", "--train_data_dir=set", "--num_train_epochs=1")
    assert captions_of(found) == {"a.png": ("one",), "b.png": ("two",)}
    assert found.config["steps"] == 2


def test_pictures_without_captions_are_not_trained_on_the_empty_text(folder: Callable[..., Path]) -> None:
    """The original stops as well: there is no column of captions."""
    folder(["cat/a.png", "dog/b.png"], {})
    with pytest.raises(ConfigError, match="caption"):
        captions_of(convert("train_text_to_image_lora", "--train_data_dir=set"))


def test_a_limit_holds_for_folders_too(folder: Callable[..., Path]) -> None:
    folder(["a.png", "b.png"], {"metadata.jsonl": {"a.png": "one", "b.png": "two"}})
    found = convert("train_text_to_image_lora", "--train_data_dir=set", "--max_train_samples=1", "--num_train_epochs=5")
    assert (captions_of(found), found.config["steps"]) == ({"a.png": ("one",)}, 5)


@pytest.mark.parametrize("script", ["train_dreambooth_lora_sdxl", "train_dreambooth_lora_sdxl_advanced"])
def test_dreambooth_with_captions_of_a_data_set(script: str, folder: Callable[..., Path]) -> None:
    folder(["train/a.png"], {"train/metadata.jsonl": {"a.png": "one"}})
    more = ["--dataset_name=set", "--instance_prompt=x", "--caption_column=text", "--repeats=2", "--num_train_epochs=3"]
    found = convert(script, *more)
    assert captions_of(found) == {"a.png": ("one",)}
    assert found.config["steps"] == 6


def test_a_data_set_of_the_hub_is_counted_after_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["--dataset_name=someone/pictures", "--instance_prompt=x", "--num_train_epochs=3"]
    config = convert("train_dreambooth_lora_sdxl", *more).config
    assert (config.get("steps"), config["epochs"]) == (None, 3)
    prior = ["--with_prior_preservation", "--class_data_dir=c", "--class_prompt=a"]
    with pytest.raises(LorasmithError, match="number of instance images"):
        convert("train_dreambooth_lora_sdxl", *more, *prior)
