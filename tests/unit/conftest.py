"""A tiny random base and LoRA files for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lorasmith.families.base import Family

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def bases(random_base: Callable[..., Path]) -> Callable[[str], Path]:
    """A function from `sd1`, `sd2`, `sdxl` to a diffusers folder with random weights."""
    return random_base


@pytest.fixture(scope="session")
def loaded(bases: Callable[[str], Path]) -> Callable[[str], Family]:
    """A function from a kind to the loaded family; tests leave it as they found it."""
    from lorasmith.families.load import load

    families: dict[str, Family] = {}

    def family(kind: str) -> Family:
        if kind not in families:
            families[kind] = load(bases(kind))
        return families[kind]

    return family


@pytest.fixture
def family(loaded: Callable[[str], Family]) -> Family:
    return loaded("sd1")


@pytest.fixture(scope="session", params=["flux", "sd3"])
def transformer_kind(request: pytest.FixtureRequest) -> str:
    """The families whose denoiser is a transformer."""
    return request.param


@pytest.fixture(scope="session")
def transformer_folder(transformer_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random base of the family, as a diffusers folder. Tests must not change it."""
    from tests.transformer_bases import WRITERS

    return WRITERS[transformer_kind](tmp_path_factory.mktemp(transformer_kind))


@pytest.fixture
def write_lora(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a random LoRA for a family."""

    def write(family: Family, name: str = "garp", parts: tuple[str, ...] = ("unet", "te"), seed: int = 0) -> Path:
        from lorasmith.adapters.attach import AdapterSet
        from lorasmith.adapters.lora import LoRA
        from lorasmith.formats.kohya import encode
        from lorasmith.formats.write import write as write_file

        layers = family.named_layers(parts)
        adapters = AdapterSet.create(LoRA(rank=2, layers=("*attn*",)), layers, family.layer_presets, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for parameter in adapters.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
        tensors = encode(adapters.adapters, family.kohya_name)
        return write_file(tmp_path / f"{name}.safetensors", tensors, {"ss_base_model_version": "sd_v1"}, torch.float32)

    return write
