"""`base_parts` in what a check reads: LoRA files to begin from, and the tokenizer that captions are counted with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

import lorasmith
from lorasmith.core.errors import ConfigError
from lorasmith.families.load import open_base
from lorasmith.training.config import load_config
from lorasmith.training.setup.caption_reader import TokenReader
from lorasmith.training.setup.check import check_lora_files
from tests.transformer_bases import original_names, write_lora_of_block

TEXT_LAYER = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"


@pytest.fixture
def table(
    transformer_kind: str, transformer_folder: Path, pictures: Callable[..., Path], tmp_path: Path
) -> dict[str, Any]:
    """A run on a transformer alone, whose other parts are in a folder of diffusers, that begins from a LoRA."""
    (tmp_path / "alone").mkdir()
    save_file(original_names(transformer_folder, transformer_kind), tmp_path / "alone" / "base.safetensors")
    write_lora_of_block(tmp_path / "first.safetensors", transformer_kind, text=True, block=False)
    return {
        "base": str(tmp_path / "alone" / "base.safetensors"),
        "base_parts": [str(transformer_folder)],
        "output": str(tmp_path / "run"),
        "steps": 1,
        "merge": [str(tmp_path / "first.safetensors")],
        "data": {"images": str(pictures(1)), "resolution": 64},
    }


def test_lora_files_may_change_the_text_encoders_of_named_parts(table: dict[str, Any]) -> None:
    found = lorasmith.check(table)
    assert [str(error) for error in found.errors] == []


def test_a_lora_of_a_missing_text_encoder_is_an_error_of_its_key(table: dict[str, Any]) -> None:
    config = load_config(table | {"base_parts": []})
    with pytest.raises(ConfigError) as error:
        check_lora_files(config, open_base(config.base))
    assert [problem.where for problem in error.value.problems] == ["merge"]
    assert "te1" in error.value.problems[0].found


def test_long_captions_are_counted_with_the_tokenizer_of_named_parts(table: dict[str, Any]) -> None:
    caption = ", ".join(["cat"] * 60)
    assert TokenReader(load_config(table)).read(caption)[0] == 119
