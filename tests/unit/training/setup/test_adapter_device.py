"""Frozen weights on the host: adapters are on the device that computes. `meta` stands for that device here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lorasmith.families.base import Family
from lorasmith.sampling.loras import load_lora
from lorasmith.training.config import load_config
from lorasmith.training.setup.build import create_adapters


def test_new_adapters_are_not_left_beside_weights_on_the_host(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config({"base": "tiny-sd", "output": str(tmp_path / "run"), "data": {"images": str(tmp_path)}})
    monkeypatch.setattr(family, "device", torch.device("meta"))
    adapters = create_adapters(config, family)
    adapters.detach()
    assert {p.device.type for p in adapters.parameters()} == {"meta"}


def test_adapters_of_a_file_are_not_left_beside_weights_on_the_host(
    family: Family, write_lora: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_lora(family)
    monkeypatch.setattr(family, "device", torch.device("meta"))
    assert {p.device.type for p in load_lora(family, file).parameters()} == {"meta"}
