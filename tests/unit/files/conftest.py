"""Tiny random bases in both layouts, and LoRA files for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.base import AdapterConfig
from lorasmith.families.load import load
from lorasmith.families.stable_diffusion.family import StableDiffusion
from lorasmith.files.lora import OutputFile
from lorasmith.formats.base import Format
from lorasmith.formats.kohya import Lycoris
from lorasmith.formats.write import write
from tests.transformer_bases import original_names

torch.set_num_threads(1)

Bases = Callable[..., Path]


@pytest.fixture(scope="session")
def bases(random_base: Callable[..., Path]) -> Bases:
    """From family and dtype to a diffusers folder; the original-layout file is beside it."""
    return partial(random_base, seed=7)


@pytest.fixture(scope="session")
def families(bases: Bases) -> Callable[..., StableDiffusion]:
    """The same, loaded in float32; text encoders too. Not to be changed."""
    made: dict[str, StableDiffusion] = {}

    def family(kind: str = "sd1") -> StableDiffusion:
        if kind not in made:
            made[kind] = load(bases(kind), dtype=torch.float32)
        return made[kind]

    return family


def random_adapters(family: StableDiffusion, config: AdapterConfig, seed: int) -> AdapterSet:
    """Adapters with random numbers in all that is trained."""
    on_norms = config.on_norms
    places = family.named_layers(["unet", *family.text_components], norms=on_norms)
    found = AdapterSet.create(config, places, family.layer_presets, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in found.parameters():
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return found


@pytest.fixture
def make(families: Callable[..., StableDiffusion], tmp_path: Path) -> Callable[..., tuple[Path, AdapterSet]]:
    """Writes a LoRA file of a kind of adapter and gives the adapters too."""

    def make(
        config: AdapterConfig, kind: str = "sd1", *, seed: int = 1, form: Format | None = None, **metadata: str
    ) -> tuple[Path, AdapterSet]:
        family = families(kind)
        adapters = random_adapters(family, config, seed)
        encoded = (form or Lycoris()).encode_adapters(adapters.adapters, family)
        path = tmp_path / f"lora{len(list(tmp_path.iterdir()))}.safetensors"
        return write(path, encoded.tensors, encoded.metadata | metadata, torch.float32), adapters

    return make


@pytest.fixture
def out(tmp_path: Path) -> Callable[..., OutputFile]:
    """A place to write to."""
    return lambda name="out.safetensors", **more: OutputFile(tmp_path / name, **more)


@pytest.fixture
def alone(transformer_kind: str, transformer_folder: Path, tmp_path: Path) -> Path:
    """The transformer in a file of its own, with no other part beside it."""
    (tmp_path / "alone").mkdir()
    file = tmp_path / "alone" / f"{transformer_kind}.safetensors"
    save_file(original_names(transformer_folder, transformer_kind), file)
    return file
