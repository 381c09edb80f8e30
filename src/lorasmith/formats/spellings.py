"""Every spelling of LoRA tensors that trainers use, brought to kohya's: `lora_unet_<path>.<word>`.

Read are kohya, LyCORIS, peft, diffusers' older two, SimpleTuner (`lycoris_...`), ai-toolkit and ComfyUI
(`diffusion_model....`) and OneTrainer. Which layer a flat name means is the family's to say.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

KOHYA = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
_TOPS = r"(?=(?:down_blocks|up_blocks|mid_block|conv_in|conv_out|time_embedding|add_embedding)\b)"
_STARTS: tuple[tuple[str, str, str], ...] = (
    (r"(?=lora_(?:unet|te\d?)_)", "", "kohya"),
    (r"lycoris_", "lora_unet_", "SimpleTuner"),
    (r"(?:base_model\.model\.)?text_encoder_2\.", "lora_te2_", "peft"),
    (r"(?:base_model\.model\.)?text_encoder\.", "lora_te1_", "peft"),
    (r"(?:base_model\.model\.)?unet\.", "lora_unet_", "peft"),
    (r"(?:base_model\.)?(?:model\.)?diffusion_model\.", "lora_unet_", "original layout"),
    (rf"base_model\.model\.{_TOPS}", "lora_unet_", "peft"),
    (r"base_model\.model\.(?=text_model\.|encoder\.)", "lora_te1_", "peft"),
    (_TOPS, "lora_unet_", "diffusers before 0.22"),
)
"""How a name may start, the prefix in its place, and whose spelling it is."""
_LEAVES: tuple[tuple[str, str], ...] = (
    (r"[._]lora(?:_linear_layer)?\.(down|up)\.weight$", r"lora_\1.weight"),
    (r"\.lora_A(?:\.default)?(?:\.weight)?$", "lora_down.weight"),
    (r"\.lora_B(?:\.default)?(?:\.weight)?$", "lora_up.weight"),
    (r"\.lora_magnitude_vector(?:\.default)?(?:\.weight)?$", "magnitude"),
    (r"\.((?:hada|lokr)_\w+?)(?:\.default)?$", r"\1"),
    (r"\.((?:lora_(?:down|up|mid)|a1|a2|b1|b2|bm)\.weight)$", r"\1"),
    (r"\.(alpha|dora_scale|diff|diff_b|w_norm|b_norm|oft_blocks|rescale|on_input|weight)$", r"\1"),
)
"""How a name may end, and the word in its place."""


def canonical(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[dict[str, Tensor], str]:
    """The tensors in kohya's spelling, and whose spelling they had. Names that no rule fits stay as they are."""
    found: dict[str, Tensor] = {}
    seen: dict[str, int] = {}
    paths: dict[str, str] = {}
    for key, tensor in tensors.items():
        renamed = rename(key)
        if renamed is None:
            found[key] = tensor
            continue
        flat, word, path, spelling = renamed
        seen[spelling] = seen.get(spelling, 0) + 1
        paths[flat] = path
        if word == "magnitude":
            word, tensor = "dora_scale", tensor.flatten()
        found[f"{flat}.{word}"] = tensor
    _shape_magnitudes(found)
    if config := metadata.get("lora_adapter_metadata"):
        found |= _alphas(found, paths, json.loads(config))
    return found, max(seen, key=lambda s: seen[s]) if seen else "unknown"


def rename(key: str) -> tuple[str, str, str, str] | None:
    """Flat name, word, dotted path below the component, spelling; None for a name of another kind."""
    for pattern, word in _LEAVES:
        match = re.search(pattern, key)
        if match is None:
            continue
        stem, word = key[: match.start()], match.expand(word)
        for start, prefix, spelling in _STARTS:
            if head := re.match(start, stem):
                path = stem[head.end() :].replace(".processor.", ".").replace("_processor_to_", "_to_")
                path = re.sub(r"([._]to_out)$", r"\1.0", path)
                if spelling == "peft" and ("_lora." in key or ".lora." in key or "lora_linear_layer" in key):
                    spelling = "diffusers"
                return prefix + path.replace(".", "_"), word, path, spelling
    return None


def _shape_magnitudes(tensors: dict[str, Tensor]) -> None:
    """peft's magnitudes, (out,), as LyCORIS' along outputs, (out, 1[, 1, 1])."""
    for key, tensor in tensors.items():
        up = tensors.get(key.removesuffix("dora_scale") + "lora_up.weight")
        if key.endswith(".dora_scale") and tensor.dim() == 1 and up is not None:
            tensors[key] = tensor.view(-1, *[1] * (up.dim() - 1))


def _alphas(tensors: Mapping[str, Tensor], paths: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The alphas that a peft config gives, by kohya's names."""
    components = {"lora_unet_": "unet", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}
    found: dict[str, Tensor] = {}
    for flat, path in paths.items():
        component = next((c for prefix, c in components.items() if flat.startswith(prefix)), None)
        down = tensors.get(f"{flat}.lora_down.weight")
        if down is None or f"{component}.lora_alpha" not in config:
            continue
        patterns = config.get(f"{component}.alpha_pattern") or {}
        fitting = (a for pattern, a in patterns.items() if re.match(rf"(.*\.)?({pattern})$", path))
        alpha = float(next(fitting, config[f"{component}.lora_alpha"]))
        if config.get(f"{component}.use_rslora"):
            alpha *= math.sqrt(down.shape[0])
        found[f"{flat}.alpha"] = torch.tensor(alpha)
    return found
