"""The files that were given to the programs themselves: every kind in every format, for small bases of each family.

Weights and settings are fixed, so that a test makes the same files as the run that wrote `programs.json`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from matrix import ROWS, WORDY
from torch import Tensor

from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.base import AdapterConfig
from lorasmith.core.errors import LorasmithError
from lorasmith.core.registry import registered
from lorasmith.families.load import load
from lorasmith.families.stable_diffusion.random_base import write as write_base
from lorasmith.formats.base import Format
from lorasmith.formats.write import write

FAMILIES = ("sd1", "sd2", "sdxl")
FORMATS = ("kohya", "portable", "diff", "peft")
LAYERS = (
    "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
    "unet.mid_block.attentions.0.proj_in",
    "unet.mid_block.resnets.0.conv1",
    "unet.up_blocks.0.upsamplers.0.conv",
    "unet.up_blocks.1.upsamplers.0.conv",
    "unet.down_blocks.0.downsamplers.0.conv",
    "unet.time_embedding.linear_1",
    "unet.add_embedding.linear_1",
    "te*.text_model.encoder.layers.0.self_attn.*_proj",
    "te*.text_model.encoder.layers.0.mlp.fc1",
)
"""Layers of each place that programs name differently."""
EXTRA_ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA, part of an attention": ("lora", {"rank": 2, "layers": ("te*.self_attn.q_proj", "unet.mid*.attn2.to_k")}),
    "LoRA of the edges": ("lora", {"rank": 2, "layers": ("unet.conv_in", "unet.conv_out", "unet.mid*.attn2.to_k")}),
    "LoRA of the text projection": ("lora", {"rank": 2, "layers": ("te*.text_projection", "unet.mid*.attn2.to_k")}),
    "Norms, last ones": ("norm", {"layers": ("unet.conv_norm_out", "te*.final_layer_norm")}),
}
BASE_MODEL = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}


@dataclass(frozen=True)
class ProgramCase:
    """One file. `trained`: by layer name, its weight and (`<layer>.bias`) its bias as training had them."""

    family: str
    row: str
    form: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    trained: dict[str, Tensor]


def rows() -> dict[str, tuple[str, dict[str, Any]]]:
    """Name to kind and settings. The row with new words is tested elsewhere."""
    return {name: row for name, row in ROWS.items() if name != WORDY} | EXTRA_ROWS


@cache
def base(family: str, folder: Path) -> Any:
    """A small base with random weights, always the same."""
    path = folder / family
    if not path.exists():
        write_base(path, family, tiny=True, layouts=("folder",), dtype=torch.float32, seed=3)
    return load(str(path), dtype=torch.float32)


def adapters(row: str, model: Any) -> AdapterSet | None:
    """The row's adapters with random numbers in all that is trained; None if the base has none of its layers."""
    kind, settings = rows()[row]
    config_class: Any = registered(AdapterConfig)[kind]
    settings = {"layers": LAYERS} | settings
    places = model.named_layers(model.components(), norms=True)
    known = present(settings["layers"], places)
    if not known:
        return None
    config = config_class(**(settings | {"layers": known}))
    places = model.named_layers(model.components(), norms=config.on_norms)
    found = AdapterSet.create(config, places, model.layer_presets, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return found


def present(patterns: tuple[str, ...], places: Any) -> tuple[str, ...]:
    """The patterns that some layer has; those of one family are an error for another."""
    from fnmatch import fnmatchcase

    return tuple(
        pattern
        for pattern in (p.replace("te.", "te*.", 1) if p.startswith("te.") else p for p in patterns)
        if any(fnmatchcase(name, pattern) for name in places)
    )


def trained(found: AdapterSet, model: Any) -> dict[str, Tensor]:
    """Weights and biases as training has them, by layer."""
    result: dict[str, Tensor] = {}
    places = model.named_layers(model.components(), norms=True)
    for name, adapter in found.adapters.items():
        weight = found.weight_of(name)
        result[name] = (weight + adapter.delta(weight)).detach()
        bias = adapter.bias_delta()
        if bias is not None:
            owner, leaf = places[name]
            result[f"{name}.bias"] = (getattr(owner, leaf).bias + bias).detach()
    return result


def cases(folder: Path, families: tuple[str, ...] = FAMILIES) -> Iterator[ProgramCase]:
    """Every file that can be written. `folder`: for the bases."""
    for family in families:
        for row in rows():
            yield from cases_of(folder, family, row)


def cases_of(folder: Path, family: str, row: str) -> Iterator[ProgramCase]:
    """The files of a row in each format that can hold it; none if the base has none of its layers."""
    model = base(family, folder)
    found = adapters(row, model)
    if found is None:
        return
    wanted = trained(found, model)
    for form in FORMATS:
        maker: Any = registered(Format)[form]
        try:
            encoded = maker().encode_adapters(found.adapters, model, found.weight_of)
        except LorasmithError:
            continue
        metadata = encoded.metadata | {"ss_base_model_version": BASE_MODEL[family]}
        yield ProgramCase(family, row, form, encoded.tensors, metadata, wanted)


def write_case(case: ProgramCase, path: Path) -> Path:
    """The file of a case."""
    return write(path, case.tensors, case.metadata, torch.float32)
