"""`file:strength`: one grammar for every command."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorasmith.cli.sample import parse_strengths
from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.core.file_strength import split_strength
from lorasmith.files.lora import LoraInput
from lorasmith.fusion import ConceptUse
from lorasmith.sampling.loras import LoraUse
from lorasmith.sampling.prompts import split_loras
from lorasmith.training.config import load_config

CASES = [
    ("a.safetensors", "a.safetensors", 1.0),
    ("a.safetensors:0.8", "a.safetensors", 0.8),
    ("a.safetensors:-1e-1", "a.safetensors", -0.1),
    ("folder:b/a.safetensors", "folder:b/a.safetensors", 1.0),
    ("C:/loras/a.safetensors", "C:/loras/a.safetensors", 1.0),
    ("C:/loras/a.safetensors:2", "C:/loras/a.safetensors", 2.0),
    (":0.5", ":0.5", 1.0),
    ("loras/mia", "loras/mia", 1.0),
    ("loras/mia:0.5", "loras/mia", 0.5),
    ("a.safetensors:.5", "a.safetensors", 0.5),
    ("mia:v2", "mia:v2", 1.0),
]


@pytest.mark.parametrize(("text", "path", "strength"), CASES)
def test_the_last_colon_divides_if_a_number_follows(text: str, path: str, strength: float) -> None:
    assert split_strength(text) == (Path(path), strength)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f.safetensors:0,8", "with a point: 0.8"),
        ("f:0,8", "with a point: 0.8"),
        ("f.safetensors:nan", "finite"),
        ("f:inf", "finite"),
        ("f.pt:-Infinity", "finite"),
        ("f.safetensors:1e999", "finite"),
        ("f.safetensors:", "not a number"),
        ("f.safetensors:80%", "not a number"),
        ("f.safetensors:high", "not a number"),
        ("f.safetensors:0.8:0.5", "not a number"),
    ],
)
def test_a_strength_that_is_not_a_finite_number_is_an_error(text: str, message: str) -> None:
    for read in (split_strength, LoraUse.read, LoraInput.parse, ConceptUse.read):
        with pytest.raises(LorasmithError, match=message):
            read(text)


@pytest.mark.parametrize("prompt", ["<lora:f:nan>", "<lora:f:0,8>", "<lora:f:1:inf>"])
def test_strengths_in_prompts_are_numbers_too(prompt: str) -> None:
    with pytest.raises(LorasmithError, match="strength"):
        split_loras(prompt)


@pytest.mark.parametrize("text", ["0,nan", "0;1", "1,inf", ""])
def test_the_list_of_strengths_has_numbers(text: str) -> None:
    with pytest.raises(LorasmithError, match="--strengths"):
        parse_strengths(text)


@pytest.mark.parametrize("lr", ["inf", "nan", "-inf"])
def test_no_setting_is_infinite_or_not_a_number(lr: str) -> None:
    table = {"base": "tiny-sd", "output": "out", "data": {"images": "x"}}
    with pytest.raises(ConfigError, match=r"optimizer\.lr(.|\n)*finite number"):
        load_config(table, [f"optimizer.lr={lr}"])


@pytest.mark.parametrize(("text", "path", "strength"), CASES)
def test_every_command_reads_it_alike(text: str, path: str, strength: float) -> None:
    assert LoraUse.read(text) == LoraUse(Path(path), strength)
    assert LoraInput.parse(text) == LoraInput(Path(path), strength)
    assert ConceptUse.read(f"{text}=garp") == ConceptUse(Path(path), "garp", strength, strength)
