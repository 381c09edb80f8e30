"""Configs of a base that are not what they should be: one error that names the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lorasmith.core.errors import LorasmithError
from lorasmith.families.stable_diffusion.single_file import SingleFile
from lorasmith.families.stable_diffusion.source import configs_in
from lorasmith.families.weight_files import weight_files

CONFIGS = [
    "[]",
    "null",
    "{",
    '{"unet": 7}',
    '{"kind": "sd9"}',
    '{"kind": ["sd1"]}',
    '{"tokenizer": "../../elsewhere"}',
    '{"tokenizer": null}',
    "[" * 100_000,
]


@pytest.mark.parametrize("text", CONFIGS)
def test_configs_in_the_metadata_of_a_file(tmp_path: Path, text: str) -> None:
    """A path in it could lead anywhere."""
    path = tmp_path / "base.safetensors"
    save_file({"model.diffusion_model.x": torch.zeros(1)}, path, {"lorasmith.configs": text})
    with pytest.raises(LorasmithError, match=r"base\.safetensors"):
        SingleFile("base", path)


def test_configs_as_they_are_written() -> None:
    configs = {"kind": "sd1", "tokenizer": "tiny-sd/tokenizer", "unet": {"in_channels": 4}}
    assert configs_in({"lorasmith.configs": json.dumps(configs)}, Path("x")) == configs
    assert configs_in({}, Path("x")) == {}


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"weight_map": {"a": "../b.safetensors"}}', '{"weight_map": [1]}', "{"]
)
def test_an_index_of_weights(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(LorasmithError, match=r"index\.json"):
        weight_files(tmp_path, "UNet")
