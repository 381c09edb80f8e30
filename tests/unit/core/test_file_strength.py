"""`file:strength`: one grammar for every command."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorasmith.core.file_strength import split_strength
from lorasmith.files.lora import LoraInput
from lorasmith.fusion import ConceptUse
from lorasmith.sampling.loras import LoraUse

CASES = [
    ("a.safetensors", "a.safetensors", 1.0),
    ("a.safetensors:0.8", "a.safetensors", 0.8),
    ("a.safetensors:-1e-1", "a.safetensors", -0.1),
    ("folder:b/a.safetensors", "folder:b/a.safetensors", 1.0),
    ("C:/loras/a.safetensors", "C:/loras/a.safetensors", 1.0),
    ("C:/loras/a.safetensors:2", "C:/loras/a.safetensors", 2.0),
    (":0.5", ":0.5", 1.0),
]


@pytest.mark.parametrize(("text", "path", "strength"), CASES)
def test_the_last_colon_divides_if_a_number_follows(text: str, path: str, strength: float) -> None:
    assert split_strength(text) == (Path(path), strength)


@pytest.mark.parametrize(("text", "path", "strength"), CASES)
def test_every_command_reads_it_alike(text: str, path: str, strength: float) -> None:
    assert LoraUse.read(text) == LoraUse(Path(path), strength)
    assert LoraInput.parse(text) == LoraInput(Path(path), strength)
    assert ConceptUse.read(f"{text}=garp") == ConceptUse(Path(path), "garp", strength, strength)
