"""Names of layers: ours, those of kohya-style files (two dialects), and those of peft-style files. Needs no weights.

Our name is the component and diffusers' path: `unet.mid_block.attentions.0.proj_in`,
`te.text_model.encoder.layers.0.self_attn.q_proj`. Kohya-style files join the path with underscores: SD 1.x and 2.x use
diffusers' path, SDXL that of the original checkpoint ("sgm"), so that every consumer finds every layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch

from lorasmith.adapters.base import LayerSpec
from lorasmith.adapters.layer import spec_of
from lorasmith.core.component_names import is_text_encoder
from lorasmith.core.errors import LorasmithError
from lorasmith.families.stable_diffusion.ldm_names import unet_name
from lorasmith.families.stable_diffusion.source import PARTS, shipped_config
from lorasmith.families.stable_diffusion.unet import UNet
from lorasmith.families.stable_diffusion.unet_config import UNetConfig

_KOHYA = {"unet": "lora_unet_", "te": "lora_te_", "te1": "lora_te1_", "te2": "lora_te2_"}
_PEFT = {"unet": "unet", "te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2"}


@lru_cache
def published_unet(kind: str) -> UNetConfig:
    """The UNet of the published models of a kind (`sd1`, `sd2`, `sdxl`)."""
    if kind not in PARTS:
        raise LorasmithError(f'no family is called "{kind}"; there are {", ".join(PARTS)}')
    return UNetConfig.from_diffusers(shipped_config(kind, "unet"))


@lru_cache
def layers(kind: str) -> tuple[LayerSpec, ...]:
    """Every layer of the published models of a kind that may carry an adapter: linears, convolutions and norms."""
    text_configs = {part: shipped_config(kind, part) for part in PARTS[kind] if is_text_encoder(part)}
    return layers_of(published_unet(kind), text_configs)


def layers_of(config: UNetConfig, text_configs: Mapping[str, Mapping[str, Any]]) -> tuple[LayerSpec, ...]:
    """Every layer that may carry an adapter. `text_configs`: transformers' configs by component."""
    specs = list(unet_layers(config))
    for component, text_config in text_configs.items():
        specs += text_layers(component, text_config)
    return tuple(specs)


@lru_cache(maxsize=16)
def unet_layers(config: UNetConfig) -> tuple[LayerSpec, ...]:
    """The layers of a UNet. They are needed several times in a run, and building even an empty UNet takes time."""
    with torch.device("meta"):
        unet = UNet(config)
    specs = (spec_of(f"unet.{path}", module) for path, module in unet.named_modules())
    return tuple(spec for spec in specs if spec is not None)


def text_layers(component: str, config: Mapping[str, Any]) -> Iterator[LayerSpec]:
    """The layers of a text encoder with the transformers config `config`."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    linears = {
        "self_attn.k_proj": (width, width),
        "self_attn.v_proj": (width, width),
        "self_attn.q_proj": (width, width),
        "self_attn.out_proj": (width, width),
        "mlp.fc1": (inner, width),
        "mlp.fc2": (width, inner),
    }
    for i in range(config["num_hidden_layers"]):
        prefix = f"{component}.text_model.encoder.layers.{i}."
        for path, shape in linears.items():
            yield LayerSpec(prefix + path, "linear", shape)
        for number in (1, 2):
            yield LayerSpec(f"{prefix}layer_norm{number}", "norm", (width,))
    yield LayerSpec(f"{component}.text_model.final_layer_norm", "norm", (width,))
    if component == "te2":
        yield LayerSpec("te2.text_projection", "linear", (config["projection_dim"], width))


def kohya(kind: str, layer: str, config: UNetConfig | None = None) -> str:
    """The name of a layer in kohya-style files: `lora_unet_...`, `lora_te_...` (SDXL: `lora_te1_`, `lora_te2_`)."""
    component, _, path = layer.partition(".")
    if component == "unet" and kind == "sdxl":
        path = unet_name(path, config or published_unet(kind))
    return _KOHYA[component] + path.replace(".", "_")


def from_kohya(kind: str, flat: str, known_layers: Iterable[str], config: UNetConfig | None = None) -> str | None:
    """The layer with this name in kohya-style files, in either dialect. None if `known_layers` has no such layer."""
    return _kohya_table(kind, tuple(known_layers), config).get(flat)


@lru_cache(maxsize=16)
def _kohya_table(kind: str, known_layers: tuple[str, ...], config: UNetConfig | None) -> Mapping[str, str]:
    """Every name in kohya-style files to our name."""
    config = config or published_unet(kind)
    table: dict[str, str] = {}
    for layer in known_layers:
        component, _, path = layer.partition(".")
        if component == "unet":
            prefixes = ["lora_unet_"]
            paths = [unet_name(path, config), path]
        else:
            # SD 1.x files of some trainers have SDXL's prefix, and some leave out `text_model`.
            prefixes = ["lora_te1_", "lora_te_"] if component == "te" else [_KOHYA[component]]
            paths = [path.removeprefix("text_model."), path]
        for prefix in prefixes:
            for spelling in paths:
                table[prefix + spelling.replace(".", "_")] = layer
    # The published spelling goes last, so that it wins over any other layer's spelling.
    for layer in known_layers:
        table[kohya(kind, layer, config)] = layer
    return table


def peft_name(layer: str) -> str:
    """The name of a layer in peft-style files: `unet.<path>`, `text_encoder.<path>`, `text_encoder_2.<path>`."""
    component, _, path = layer.partition(".")
    return f"{_PEFT[component]}.{path}"


def from_peft(kind: str, name: str) -> str | None:
    """Our name for a layer of a peft-style file (text encoders with or without `text_model.`), or None."""
    component_in_file, _, path = name.partition(".")
    components = {"unet": "unet", "text_encoder": "te"}
    if kind == "sdxl":
        components = {"unet": "unet", "text_encoder": "te1", "text_encoder_2": "te2"}
    component = components.get(component_in_file)
    if component is None or not path:
        return None
    if component != "unet" and not path.startswith(("text_model.", "text_projection")):
        path = f"text_model.{path}"
    return f"{component}.{path}"
