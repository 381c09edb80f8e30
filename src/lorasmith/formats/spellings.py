"""The key spellings of all trainers, converted to kohya's: `lora_unet_<path>.<tensor name>`.

Supported are kohya, LyCORIS, peft, diffusers' two older ones, SimpleTuner (`lycoris_...`), ai-toolkit and ComfyUI
(`diffusion_model....`) and OneTrainer. The family decides which layer a flat name stands for.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_UNET_TOP_MODULES = r"(?=(?:down_blocks|up_blocks|mid_block|conv_in|conv_out|time_embedding|add_embedding)\b)"
_STARTS: tuple[tuple[str, str, str], ...] = (
    (r"(?=lora_(?:unet|te\d?)_)", "", "kohya"),
    (r"lycoris_", "lora_unet_", "SimpleTuner"),
    (r"(?:base_model\.model\.)?text_encoder_2\.", "lora_te2_", "peft"),
    (r"(?:base_model\.model\.)?text_encoder\.", "lora_te1_", "peft"),
    (r"(?:base_model\.model\.)?unet\.", "lora_unet_", "peft"),
    (r"(?:base_model\.)?(?:model\.)?diffusion_model\.", "lora_unet_", "original layout"),
    (rf"base_model\.model\.{_UNET_TOP_MODULES}", "lora_unet_", "peft"),
    (r"base_model\.model\.(?=text_model\.|encoder\.)", "lora_te1_", "peft"),
    (_UNET_TOP_MODULES, "lora_unet_", "diffusers before 0.22"),
)
"""Pattern of the start of a key, kohya's prefix for it, and the name of the spelling."""
_TENSOR_NAMES: tuple[tuple[str, str], ...] = (
    (r"[._]lora(?:_linear_layer)?\.(down|up)\.weight$", r"lora_\1.weight"),
    (r"\.lora_A(?:\.default)?(?:\.weight)?$", "lora_down.weight"),
    (r"\.lora_B(?:\.default)?(?:\.weight)?$", "lora_up.weight"),
    (r"\.lora_magnitude_vector(?:\.default)?(?:\.weight)?$", "magnitude"),
    (r"\.((?:hada|lokr)_\w+?)(?:\.default)?$", r"\1"),
    (r"\.((?:lora_(?:down|up|mid)|a1|a2|b1|b2|bm)\.weight)$", r"\1"),
    (r"\.(alpha|dora_scale|diff|diff_b|w_norm|b_norm|oft_blocks|rescale|on_input|weight)$", r"\1"),
)
"""Pattern of the end of a key, and kohya's tensor name for it."""
_PEFT_COMPONENTS = {"lora_unet_": "unet", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}


@dataclass(frozen=True)
class KohyaKey:
    """A key in kohya's spelling."""

    flat_name: str
    """The layer, `lora_unet_<path with underscores>`."""
    tensor_name: str
    path: str
    """Dotted module path below the component, as the file has it."""
    spelling: str
    """The spelling that the key had."""


def to_kohya_spelling(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[dict[str, Tensor], str]:
    """The tensors under kohya's keys, and the spelling that most of them had. Keys that no rule matches are unchanged.

    Raises ValueError for a peft config that is not JSON.
    """
    converted: dict[str, Tensor] = {}
    spelling_counts: Counter[str] = Counter()
    path_by_flat_name: dict[str, str] = {}
    for key, tensor in tensors.items():
        parsed = parse_key(key)
        if parsed is None:
            converted[key] = tensor
            continue
        spelling_counts[parsed.spelling] += 1
        path_by_flat_name[parsed.flat_name] = parsed.path
        # peft's DoRA magnitude is LyCORIS' dora_scale with another shape, which depends on `lora_up`
        if parsed.tensor_name == "magnitude":
            converted[f"{parsed.flat_name}.dora_scale"] = tensor.flatten()
        else:
            converted[f"{parsed.flat_name}.{parsed.tensor_name}"] = tensor
    _reshape_magnitudes(converted)

    # peft files have their alphas in a config, not as tensors
    config = metadata.get("lora_adapter_metadata")
    if config:
        converted |= _peft_alphas(converted, path_by_flat_name, json.loads(config))
    spelling = spelling_counts.most_common(1)[0][0] if spelling_counts else "unknown"
    return converted, spelling


def parse_key(key: str) -> KohyaKey | None:
    """A key of any spelling in kohya's; None for a key that is not of a LoRA's layer."""
    for end_pattern, name_template in _TENSOR_NAMES:
        end = re.search(end_pattern, key)
        if end is None:
            continue
        stem = key[: end.start()]
        for start_pattern, prefix, spelling in _STARTS:
            start = re.match(start_pattern, stem)
            if start is None:
                continue
            # diffusers' attention processors had their LoRAs beside the projections
            path = stem[start.end() :].replace(".processor.", ".").replace("_processor_to_", "_to_")
            # the LoRA processors of older diffusers left out the index of the output projection
            path = re.sub(r"([._]to_out)$", r"\1.0", path)
            if spelling == "peft" and ("_lora." in key or ".lora." in key or "lora_linear_layer" in key):
                spelling = "diffusers"
            return KohyaKey(prefix + path.replace(".", "_"), end.expand(name_template), path, spelling)
    return None


def _reshape_magnitudes(tensors: dict[str, Tensor]) -> None:
    """Give peft's magnitudes, (out,), the shape of LyCORIS' along outputs, (out, 1[, 1, 1])."""
    for key, tensor in tensors.items():
        up = tensors.get(key.removesuffix("dora_scale") + "lora_up.weight")
        if key.endswith(".dora_scale") and tensor.dim() == 1 and up is not None:
            tensors[key] = tensor.view(-1, *[1] * (up.dim() - 1))


def _peft_alphas(
    tensors: Mapping[str, Tensor], path_by_flat_name: Mapping[str, str], config: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The alphas of a peft config, by kohya's keys."""
    alphas: dict[str, Tensor] = {}
    for flat_name, path in path_by_flat_name.items():
        prefix = "_".join(flat_name.split("_")[:2]) + "_"
        component = _PEFT_COMPONENTS.get(prefix)
        down = tensors.get(f"{flat_name}.lora_down.weight")
        if down is None or f"{component}.lora_alpha" not in config:
            continue
        # a pattern of single layers takes precedence over the component's alpha
        alpha = config[f"{component}.lora_alpha"]
        for pattern, layer_alpha in (config.get(f"{component}.alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", path):
                alpha = layer_alpha
                break
        alpha = float(alpha)
        # rank-stabilized LoRA divides by sqrt(rank) where kohya's readers divide by the rank
        if config.get(f"{component}.use_rslora"):
            alpha *= math.sqrt(down.shape[0])
        alphas[f"{flat_name}.alpha"] = torch.tensor(alpha)
    return alphas
