"""peft-style files, diffusers' own format: `unet.<path>.lora_A.weight`, and a config in the metadata.

Every scale is multiplied into `lora_B`, so that alpha = rank holds in every layer. A reader that ignores the config
therefore still gets the change right where all ranks are equal.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from lorasmith.formats.base import Encoded, Format, LayerNames, Shapes, unsupported_layers
from lorasmith.formats.kohya import complete_text_attention
from lorasmith.formats.rewrite import LayerTensors, to_plain_lora, with_alpha

if TYPE_CHECKING:
    from torch import Tensor


class Peft(Format):
    """LoRA, what can be rewritten to it, and DoRA along outputs, for diffusers."""

    kind: Literal["peft"] = "peft"

    def encode(self, layers: Mapping[str, LayerTensors], names: LayerNames, shapes: Shapes) -> Encoded:
        lora_layers: dict[str, LayerTensors] = {}
        unsupported: list[str] = []
        for layer, tensors in layers.items():
            lora = _lora_or_dora(tensors, shapes[layer])
            if lora is None:
                unsupported.append(layer)
            else:
                lora_layers[layer] = lora
        if unsupported:
            reason = "diffusers has LoRA and DoRA along outputs only"
            raise unsupported_layers(unsupported, "peft", reason, 'use "kohya" for A1111, Forge and ComfyUI')

        lora_layers = complete_text_attention(lora_layers)
        tensors_by_key: dict[str, Tensor] = {}
        for layer, lora in lora_layers.items():
            tensors_by_key |= _peft_tensors(names.peft_name(layer), lora)
        config = json.dumps(_adapter_configs(lora_layers, names), sort_keys=True)
        return Encoded(tensors_by_key, {"lora_adapter_metadata": config})


def _lora_or_dora(tensors: LayerTensors, shape: tuple[int, ...]) -> LayerTensors | None:
    """Plain LoRA with alpha = rank, and DoRA's magnitude along outputs if there is one; None for other changes."""
    # the low-rank part and the magnitude are rewritten apart, since DoRA as a whole is of full rank
    without_magnitude = {name: tensor for name, tensor in tensors.items() if name != "dora_scale"}
    lora = to_plain_lora(without_magnitude, shape)
    if lora is None:
        return None
    lora = with_alpha(lora, lora["lora_down.weight"].shape[0])
    magnitude = tensors.get("dora_scale")
    if magnitude is None:
        return lora
    outputs = lora["lora_up.weight"].shape[0]
    runs_along_outputs = magnitude.shape[0] == outputs == magnitude.numel()
    return lora | {"dora_scale": magnitude} if runs_along_outputs else None


def _peft_tensors(name: str, lora: LayerTensors) -> dict[str, Tensor]:
    down = lora["lora_down.weight"]
    tensors = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": lora["lora_up.weight"]}
    if "dora_scale" in lora:
        magnitude = lora["dora_scale"].flatten()
        # peft stores the magnitude of a convolution with the shape of its output, (1, out, 1, 1)
        tensors[f"{name}.lora_magnitude_vector"] = magnitude if down.dim() == 2 else magnitude.view(1, -1, 1, 1)
    return tensors


def _adapter_configs(layers: Mapping[str, LayerTensors], names: LayerNames) -> dict[str, Any]:
    """The fields of peft's LoraConfig, as `{component}.{field}`."""
    rank_by_path: dict[str, dict[str, int]] = {}
    dora_components: set[str] = set()
    for layer, lora in layers.items():
        component, _, path = names.peft_name(layer).partition(".")
        # only the tail of the path, which matches whatever transformers calls the text model
        tail = path.removeprefix("text_model.")
        rank_by_path.setdefault(component, {})[tail] = lora["lora_down.weight"].shape[0]
        if "dora_scale" in lora:
            dora_components.add(component)

    # the commonest rank is the component's, the others are exceptions by path; alpha is the rank everywhere
    configs: dict[str, Any] = {}
    for component, ranks in rank_by_path.items():
        common_rank = Counter(ranks.values()).most_common(1)[0][0]
        other_ranks = {path: rank for path, rank in ranks.items() if rank != common_rank}
        configs[f"{component}.r"] = common_rank
        configs[f"{component}.lora_alpha"] = common_rank
        configs[f"{component}.rank_pattern"] = other_ranks
        configs[f"{component}.alpha_pattern"] = other_ranks
        configs[f"{component}.target_modules"] = sorted(ranks)
        configs[f"{component}.use_dora"] = component in dora_components
    return configs
