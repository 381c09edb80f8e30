"""What is taken out of metadata, whoever wrote them."""

from __future__ import annotations

import json
from typing import Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from lorasmith.core.registry import registered
from lorasmith.data.config import DataConfig, SubsetConfig, ValidationConfig
from lorasmith.data.transforms import Transform
from lorasmith.formats.privacy import (
    NEEDED,
    PRIVATE_SECTIONS,
    PUBLIC_DATA_TEXTS,
    PUBLIC_SECTIONS,
    PUBLIC_SETTINGS,
    Level,
    filter_metadata,
    public_config,
    public_config_text,
    settings_left_out,
    text_without_folders,
)
from lorasmith.training.config import TrainConfig

KOHYA = {
    "ss_tag_frequency": json.dumps({"10_mia": {"mia": 3}}),
    "ss_dataset_dirs": json.dumps({"10_mia": {"n_repeats": 10, "img_count": 3}}),
    "ss_datasets": json.dumps([{"subsets": [{"image_dir": "10_mia", "class_tokens": "mia"}]}]),
    "ss_caption_prefix": "mia, ",
    "ss_new_field": "mia",
    "ss_new_number": "0.5",
    "ss_flip_aug": "True",
    "ss_network_args": json.dumps({"preset": "/data/mia/preset.toml"}),
    "ss_vae_name": "/data/mia/vae.pt",
    "ss_bucket_info": json.dumps({"buckets": {"0": {"resolution": [512, 512], "count": 3}}}),
    "ot_config": json.dumps({"path": "/data/mia/photos"}),
    "modelspec.trigger_phrase": "ohwx",
    "modelspec.description": "made from C:\\\\Users\\\\mia\\\\x.png and/or others, 1/2",
}


def test_public_metadata_of_sd_scripts() -> None:
    public = filter_metadata(KOHYA, "public")
    assert public == {
        "ss_new_number": "0.5",
        "ss_flip_aug": "True",
        "ss_network_args": json.dumps({"preset": "preset.toml"}),
        "ss_vae_name": "vae.pt",
        "ss_bucket_info": KOHYA["ss_bucket_info"],
        "modelspec.trigger_phrase": "ohwx",
        "modelspec.description": "made from x.png and/or others, 1/2",
    }


def test_each_level_holds_less() -> None:
    metadata = KOHYA | dict.fromkeys(NEEDED, "1")
    levels: tuple[Level, ...] = ("full", "public", "minimal", "none")
    full, public, minimal, none = (set(filter_metadata(metadata, level)) for level in levels)
    assert full == set(metadata)
    assert full > public > none
    assert minimal - none == {"modelspec.trigger_phrase", "modelspec.description"}


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("/data/mia/a b.png", "a b.png"),
        ("C:\\data\\x.png", "x.png"),
        ("~/photos/x", "x"),
        ("read from /data/mia/photos, then", "read from photos, then"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("Stability-AI/generative-models", "Stability-AI/generative-models"),
        ("/d 42 --cfg 1/2", "/d 42 --cfg 1/2"),
        ("data:image/png;base64,//AA/BB", "data:image/png;base64,//AA/BB"),
        ('["/a/b", "c"]', '["b", "c"]'),
        ("[not json /a/b", "[not json b"),
    ],
)
def test_paths_in_texts(text: str, clean: str) -> None:
    assert text_without_folders(text) == clean


def test_a_public_config_names_what_it_lacks() -> None:
    settings = {
        "base": "models/v1-5.safetensors",
        "output": "/runs/mia",
        "preview": {"prompts": ["mia"]},
        "hooks": [{"kind": "wandb", "options": {"entity": "mia"}}],
        "merge": ["loras/a.safetensors:0.5"],
        "data": {
            "subsets": [
                {
                    "images": "mia",
                    "caption": "a mia",
                    "masks": "mia-masks",
                    "concept_masks": {"<mia>": "m"},
                    "repeats": 3,
                },
                {"images": "others", "masks": "alpha", "transforms": [{"kind": "tags", "separator": ";"}]},
            ],
            "transforms": [{"kind": "template", "templates": ["a mia"]}, {"kind": "replace", "words": {"mia": "x"}}],
            "validation": {"images": "mia-held-out", "split": 0.0},
        },
    }
    public, left_out = public_config(settings)
    assert "mia" not in str(public).replace("'output': 'mia'", "")
    assert public["base"] == "v1-5.safetensors"
    assert public["merge"] == ["a.safetensors:0.5"]
    assert public["data"]["subsets"][0] == {"images": "images", "repeats": 3}
    assert public["data"]["subsets"][1]["masks"] == "alpha"
    assert public["data"]["subsets"][1]["transforms"] == [{"kind": "tags", "separator": ";"}]
    assert left_out == [
        "data.subsets.0.caption",
        "data.subsets.0.masks",
        "data.subsets.0.concept_masks",
        "data.transforms.0.templates",
        "data.transforms.1.words",
        "data.validation.images",
    ]


def test_a_public_config_text_says_what_it_lacks_also_when_it_is_stripped_again() -> None:
    text = 'base = "x"\n[data]\n[[data.subsets]]\nimages = "mia"\ncaption = "a mia"\n'
    once = public_config_text(text)
    assert settings_left_out(once) == ["data.subsets.0.caption"]
    assert public_config_text(once) == once
    assert settings_left_out(text) == []
    assert public_config_text("not = = toml") == ""


def test_every_section_of_a_config_is_public_or_private() -> None:
    """A new setting that holds texts or tables has to be put into one of the lists."""
    undecided = set()
    for name, field in TrainConfig.model_fields.items():
        text = str(field.annotation)
        plain = not any(word in text for word in ("str", "Path", "lorasmith", "Literal"))
        if not plain and name not in PRIVATE_SECTIONS | PUBLIC_SECTIONS | PUBLIC_SETTINGS | {"data"}:
            undecided.add(name)
    assert not undecided


def test_choices_of_data_settings_are_public() -> None:
    models: list[type[BaseModel]] = [DataConfig, SubsetConfig, ValidationConfig, *registered(Transform).values()]
    for model in models:
        for name, field in model.model_fields.items():
            if get_origin(field.annotation) is Literal and isinstance(get_args(field.annotation)[0], str):
                assert name in PUBLIC_DATA_TEXTS, f"{model.__name__}.{name}"
