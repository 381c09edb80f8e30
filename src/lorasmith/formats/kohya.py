"""Kohya-style LoRA files: `<prefix>_<path with underscores>.lora_down.weight`, `.lora_up.weight`, `.alpha`.

A1111, Forge, ComfyUI, InvokeAI and diffusers all read this format. diffusers takes the commonest alpha of a component
for every layer of it, so a file has one alpha per component; where layers differ, `lora_up` takes up the difference,
which leaves every product unchanged. Other adapter kinds have LyCORIS' tensor names under the same layer names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from lorasmith.core.deferred_torch import torch
from lorasmith.core.errors import LorasmithError
from lorasmith.formats.base import Encoded, Format, LayerNames, ModulePart, Shapes, layer_tensors, unsupported_layers
from lorasmith.formats.joint_modules import join_layers, split_modules
from lorasmith.formats.rewrite import LayerTensors, alpha_of, merge_tucker_core, to_plain_lora, with_alpha

if TYPE_CHECKING:
    from torch import Tensor

    from lorasmith.adapters.base import Adapter

PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_", "lora_transformer_")
_TEXT_PROJECTION = re.compile(r"^(te\d?\..*\.self_attn\.)(?:q|k|v|out)_proj$")
_TEXT_MLP = re.compile(r"^(te\d?\..*\.layers\.\d+\.)mlp\.fc([12])$")
COMPONENTS_WITH_OWN_ALPHAS = ("transformer", "t5")
PROJECTIONS = ("q", "k", "v", "out")
"""Of an attention of a text encoder, by the start of their names."""


class Kohya(Format):
    """Every kind under its own tensor names, one alpha per component, Tucker LoRA in two factors."""

    kind: Literal["kohya"] = "kohya"

    def encode(self, layers: Mapping[str, LayerTensors], names: LayerNames, shapes: Shapes) -> Encoded:
        return Encoded(to_module_keys(make_portable(layers), names, shapes))


class Lycoris(Format):
    """Every kind under its own tensor names, alphas unchanged."""

    kind: Literal["lycoris"] = "lycoris"

    def encode(self, layers: Mapping[str, LayerTensors], names: LayerNames, shapes: Shapes) -> Encoded:
        return Encoded(to_module_keys(layers, names, shapes))


class Portable(Format):
    """Plain LoRA only, which every program reads alike; other kinds where an exact rewrite to plain LoRA exists."""

    kind: Literal["portable"] = "portable"

    def encode(self, layers: Mapping[str, LayerTensors], names: LayerNames, shapes: Shapes) -> Encoded:
        # all unsupported layers are counted before the error, so that it tells how much is at stake
        plain_layers: dict[str, LayerTensors] = {}
        unsupported: list[str] = []
        for layer, tensors in layers.items():
            plain = to_plain_lora(tensors, shapes[layer])
            if plain is None:
                unsupported.append(layer)
            else:
                plain_layers[layer] = plain
        if unsupported:
            raise unsupported_layers(
                unsupported,
                "portable",
                "they are of full rank or change norms, which plain LoRA cannot express",
                'use "kohya" for A1111, Forge and ComfyUI, or "diff" with the base model',
            )
        return Encoded(to_module_keys(complete_text_attention(unify_alphas(plain_layers)), names, shapes))


def encode(adapters: Mapping[str, Adapter], name_of: Callable[[str], str]) -> dict[str, Tensor]:
    """Tensors of a kohya file, float32. `name_of` returns a layer's name in such files."""
    return to_file_keys(make_portable(layer_tensors(adapters)), name_of)


def decode(
    tensors: Mapping[str, Tensor], layer_of: Callable[[str], str | None]
) -> tuple[dict[str, LayerTensors], list[str]]:
    """Tensors by layer and tensor name, and the keys of tensors that belong to no layer. Raises LorasmithError for two
    names of the same layer, as in files that mix the names of diffusers and of the original layout."""
    layers: dict[str, LayerTensors] = {}
    flat_names: dict[str, str] = {}
    unknown_keys: list[str] = []
    for key, tensor in tensors.items():
        flat_name, _, tensor_name = key.partition(".")
        layer = layer_of(flat_name)
        if layer is None or not tensor_name:
            unknown_keys.append(key)
        elif flat_names.setdefault(layer, flat_name) != flat_name:
            raise LorasmithError(
                f"{flat_names[layer]} and {flat_name} are the same layer, {layer}, as if two LoRAs were in one file; "
                "save each in a file of its own"
            )
        else:
            layers.setdefault(layer, {})[tensor_name] = tensor
    return layers, unknown_keys


def decode_modules(tensors: Mapping[str, Tensor], names: LayerNames) -> tuple[dict[str, LayerTensors], list[str]]:
    """`decode`, with the modules that hold several layers (Flux: q, k and v) split into their layers. Raises
    LorasmithError also for a change that cannot be split."""
    modules: dict[str, LayerTensors] = {}
    parts: dict[str, Mapping[str, ModulePart]] = {}
    others: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        flat_name, _, tensor_name = key.partition(".")
        if flat_name not in parts:
            parts[flat_name] = names.kohya_parts(flat_name)
        if parts[flat_name] and tensor_name:
            modules.setdefault(flat_name, {})[tensor_name] = tensor
        else:
            others[key] = tensor
    layers, unknown_keys = decode(others, names.from_kohya)
    module_of: dict[str, str] = {}
    for module in modules:
        for layer in parts[module]:
            if layer in layers or layer in module_of:
                raise LorasmithError(
                    f"{layer} is in the file twice, in {module} and in {module_of.get(layer, 'a module of its own')}, "
                    "as if two LoRAs were in one file; save each in a file of its own"
                )
            module_of[layer] = module
    return layers | split_modules(modules, parts), unknown_keys


def to_module_keys(layers: Mapping[str, LayerTensors], names: LayerNames, shapes: Shapes) -> dict[str, Tensor]:
    """Tensors by their keys in a file whose modules hold the layers as the family's original files do. `shapes`: at
    least of the layers that share a module."""
    keyed: dict[str, Tensor] = {}
    for module, tensors in join_layers(layers, names, shapes).items():
        keyed |= {f"{module}.{tensor_name}": tensor for tensor_name, tensor in tensors.items()}
    return keyed


def make_portable(layers: Mapping[str, LayerTensors]) -> dict[str, LayerTensors]:
    """The same changes in the form that most programs accept: no Tucker core, one alpha per component, complete
    attentions of the text encoders."""
    without_core = {layer: merge_tucker_core(tensors) for layer, tensors in layers.items()}
    return complete_text_attention(unify_alphas(without_core))


def to_file_keys(layers: Mapping[str, LayerTensors], name_of: Callable[[str], str]) -> dict[str, Tensor]:
    """Tensors by their keys in a file."""
    keyed: dict[str, Tensor] = {}
    for layer, tensors in layers.items():
        flat_name = name_of(layer)
        for tensor_name, tensor in tensors.items():
            keyed[f"{flat_name}.{tensor_name}"] = tensor
    return keyed


def unify_alphas(layers: Mapping[str, LayerTensors]) -> dict[str, LayerTensors]:
    """The same changes with the commonest alpha of each component in all its LoRA layers. Those of transformers keep
    their own: diffusers takes each layer's alpha there."""
    # kinds without `lora_up` have alphas of another meaning, which stay
    alpha_counts: dict[str, Counter[float]] = {}
    for layer, tensors in layers.items():
        if "lora_up.weight" in tensors and _component(layer) not in COMPONENTS_WITH_OWN_ALPHAS:
            alpha_counts.setdefault(_component(layer), Counter())[alpha_of(tensors)] += 1
    unified: dict[str, LayerTensors] = {}
    for layer, tensors in layers.items():
        if "lora_up.weight" in tensors and _component(layer) in alpha_counts:
            commonest_alpha, _ = alpha_counts[_component(layer)].most_common(1)[0]
            unified[layer] = with_alpha(tensors, commonest_alpha)
        elif "lora_up.weight" in tensors:
            # sd-scripts' own conversion needs an alpha in every layer
            unified[layer] = with_alpha(tensors, alpha_of(tensors))
        else:
            unified[layer] = dict(tensors)
    return unified


def complete_text_attention(layers: Mapping[str, LayerTensors]) -> dict[str, LayerTensors]:
    """The layers, and zero changes for missing projections of a text encoder attention: A1111 takes all four
    projections of an OpenCLIP attention or none, diffusers needs `out_proj`, and InvokeAI tells the base model by the
    attention of text encoders, so that one of MLPs alone gets an attention too."""
    completed = dict(layers)
    components_with_attention: set[str] = set()
    for layer, tensors in layers.items():
        projection = _TEXT_PROJECTION.match(layer)
        if projection is None or "lora_up.weight" not in tensors:
            continue
        components_with_attention.add(_component(layer))
        # all four projections have the same shape, so that this one's tensors are the pattern for the others;
        # a DoRA magnitude of zero would not mean no change
        zeros: LayerTensors = {}
        for name, tensor in tensors.items():
            if name != "dora_scale":
                zeros[name] = tensor if name == "alpha" else torch.zeros_like(tensor)
        for part in PROJECTIONS:
            completed.setdefault(f"{projection[1]}{part}_proj", zeros)
    return completed | _attention_beside_mlps(layers, components_with_attention)


def _attention_beside_mlps(layers: Mapping[str, LayerTensors], others: set[str]) -> dict[str, LayerTensors]:
    """An attention without a change for each text encoder that has MLP layers only. `others`: components that have
    attention."""
    attentions: dict[str, LayerTensors] = {}
    done = set(others)
    for layer, tensors in layers.items():
        mlp = _TEXT_MLP.match(layer)
        if mlp is None or _component(layer) in done or "lora_up.weight" not in tensors:
            continue
        done.add(_component(layer))
        zeros = _zero_projection(tensors, is_first=mlp[2] == "1")
        attentions |= {f"{mlp[1]}self_attn.{part}_proj": zeros for part in PROJECTIONS}
    return attentions


def _zero_projection(mlp: LayerTensors, *, is_first: bool) -> LayerTensors:
    """No change of a projection of the attention beside an MLP layer, with its rank and alpha. `is_first`: the layer
    is the MLP's first, whose inputs have the width of the model; the second's outputs have it."""
    up, down = mlp["lora_up.weight"], mlp["lora_down.weight"]
    width = down.shape[1] if is_first else up.shape[0]
    rank = down.shape[0]
    zeros = {"lora_down.weight": down.new_zeros(rank, width), "lora_up.weight": up.new_zeros(width, rank)}
    if "alpha" in mlp:
        zeros["alpha"] = mlp["alpha"]
    return zeros


def _component(layer: str) -> str:
    return layer.split(".", 1)[0]
