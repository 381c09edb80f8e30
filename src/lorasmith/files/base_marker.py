"""A change of zeros that tells InvokeAI for which base model a file is.

InvokeAI refuses a file that changes no cross-attention and no text encoder, and takes one for SDXL in which a time
embedding comes first. A LoRA of zeros tells it the base, and changes nothing in any program: on the text encoder's
first attention (its names sort before the UNet's; with all four projections, which A1111 and diffusers need), or on one
cross-attention, since of SDXL's text encoders it learns nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch

from lorasmith.core.component_names import is_text_encoder
from lorasmith.files.model import ModelLayers
from lorasmith.formats.base import Encoded
from lorasmith.formats.invoke_base import loads_as
from lorasmith.formats.kohya import PROJECTIONS, to_file_keys
from lorasmith.formats.rewrite import LayerTensors


def mark_base(encoded: Encoded, layers: Collection[str], model: ModelLayers) -> Encoded:
    """The content with the zeros that InvokeAI needs; unchanged if it tells the base without them, or if even with
    them it would not, and for models without a UNet. `layers`: those that the file changes."""
    tensors = encoded.tensors
    if not any(layer.startswith("unet.") for layer in model.layers):
        return encoded
    if not tensors or loads_as(dict(sorted(tensors.items())), model.kind):
        return encoded
    for candidates in (_first_text_attention(model), _first_cross_attention(model)):
        if not candidates or set(candidates) & set(layers):
            continue
        # the alpha of the others, since diffusers takes the commonest one for all
        alpha = _alpha_of(encoded, model.kohya_name(candidates[0]))
        zeros = {layer: _no_change(model.shapes[layer], alpha) for layer in candidates}
        marked = tensors | to_file_keys(zeros, model.kohya_name)
        if loads_as(dict(sorted(marked.items())), model.kind):
            return replace(encoded, tensors=marked)
    return encoded


def _first_text_attention(model: ModelLayers) -> list[str]:
    """The projections of the first attention of each text encoder."""
    components = dict.fromkeys(layer.split(".", 1)[0] for layer in model.layers)
    names: list[str] = []
    for component in filter(is_text_encoder, components):
        stem = f"{component}.text_model.encoder.layers.0.self_attn"
        names += [f"{stem}.{part}_proj" for part in PROJECTIONS if f"{stem}.{part}_proj" in model.layers]
    return names


def _first_cross_attention(model: ModelLayers) -> list[str]:
    """The keys of the cross-attention whose name sorts first."""
    names = [layer for layer in model.layers if layer.endswith("attn2.to_k")]
    return [min(names, key=model.kohya_name)] if names else []


def _alpha_of(encoded: Encoded, flat_name: str) -> float:
    """The alpha of the LoRA layers of the component that a layer belongs to; 1 if there are none."""
    prefix = "_".join(flat_name.split("_")[:2]) + "_"
    for key, tensor in encoded.tensors.items():
        stem = key.removesuffix(".alpha")
        if stem != key and key.startswith(prefix) and f"{stem}.lora_up.weight" in encoded.tensors:
            return float(tensor)
    return 1.0


def _no_change(shape: tuple[int, ...], alpha: float) -> LayerTensors:
    """A LoRA of rank 1 that changes nothing."""
    return {
        "lora_down.weight": torch.zeros(1, shape[1]),
        "lora_up.weight": torch.zeros(shape[0], 1),
        "alpha": torch.tensor(alpha),
    }
