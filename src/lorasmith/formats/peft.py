"""peft-style files, diffusers' own: `unet.<path>.lora_A.weight`, and a config in the metadata.

Every scale is folded into `lora_B`, so that alpha = rank holds in every layer and a reader that overlooks the config
still gets the change right where all ranks are equal.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from lorasmith.formats.base import Encoded, Format, Names, Shapes, refuse
from lorasmith.formats.kohya import complete
from lorasmith.formats.rewrite import LayerTensors, plain, with_alpha


class Peft(Format):
    """LoRA, what can be rewritten to it, and DoRA along outputs, for diffusers."""

    kind: Literal["peft"] = "peft"

    def encode(self, layers: Mapping[str, LayerTensors], names: Names, shapes: Shapes) -> Encoded:
        found, lost = {}, []
        for layer, tensors in layers.items():
            rest = {name: t for name, t in tensors.items() if name != "dora_scale"}
            lora, magnitude = plain(rest, shapes[layer]), tensors.get("dora_scale")
            if lora is None or (magnitude is not None and not _along_outputs(magnitude, lora)):
                lost.append(layer)
                continue
            lora = with_alpha(lora, lora["lora_down.weight"].shape[0])
            found[layer] = lora if magnitude is None else lora | {"dora_scale": magnitude}
        if lost:
            why = "diffusers has LoRA and DoRA along outputs only"
            raise refuse(lost, "peft", why, 'use "kohya" for A1111, Forge and ComfyUI')
        found = complete(found)
        tensors = {k: t for layer, tensors in found.items() for k, t in _named(names.peft_name(layer), tensors).items()}
        return Encoded(tensors, {"lora_adapter_metadata": json.dumps(_configs(found, names), sort_keys=True)})


def _along_outputs(magnitude: Tensor, lora: LayerTensors) -> bool:
    return magnitude.shape[0] == lora["lora_up.weight"].shape[0] and magnitude.shape[0] == magnitude.numel()


def _named(name: str, tensors: LayerTensors) -> dict[str, Tensor]:
    down, up = tensors["lora_down.weight"], tensors["lora_up.weight"]
    found = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    if "dora_scale" in tensors:
        magnitude = tensors["dora_scale"].flatten()
        found[f"{name}.lora_magnitude_vector"] = magnitude if down.dim() == 2 else magnitude.view(1, -1, 1, 1)
    return found


def _configs(layers: Mapping[str, LayerTensors], names: Names) -> dict[str, Any]:
    """`{component}.{field of peft's LoraConfig}`."""
    ranks: dict[str, dict[str, int]] = {}
    magnitudes: set[str] = set()
    for layer, tensors in layers.items():
        component, _, path = names.peft_name(layer).partition(".")
        # a tail of the path, which fits whatever transformers calls the text model
        ranks.setdefault(component, {})[path.removeprefix("text_model.")] = tensors["lora_down.weight"].shape[0]
        magnitudes |= {component} if "dora_scale" in tensors else set()
    found: dict[str, Any] = {}
    for component, by_path in ranks.items():
        common = Counter(by_path.values()).most_common(1)[0][0]
        others = {path: rank for path, rank in by_path.items() if rank != common}
        config = {"r": common, "lora_alpha": common, "rank_pattern": others, "alpha_pattern": others}
        config |= {"target_modules": sorted(by_path), "use_dora": component in magnitudes}
        found |= {f"{component}.{field}": value for field, value in config.items()}
    return found
