"""The key spellings of all trainers, converted to kohya's: `lora_unet_<path>.<tensor name>`.

Supported are kohya, LyCORIS, peft, diffusers' two older ones, SimpleTuner (`lycoris_...`), ai-toolkit and ComfyUI
(`diffusion_model....`), OneTrainer, Black Forest Labs' (`double_blocks...lora_A`) and XLabs'
(`double_blocks.0.processor.qkv_lora1...`). The family decides which layer a flat name stands for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.formats.peft_config import add_peft_alphas

_UNET_TOP_MODULES = r"(?=(?:down_blocks|up_blocks|mid_block|conv_in|conv_out|time_embedding|add_embedding)\b)"
_TRANSFORMER_MODULES = (
    r"(?=(?:(?:single_)?transformer_blocks|x_embedder|context_embedder|time_text_embed|norm_out|proj_out|pos_embed)\b)"
)
_BFL_MODULES = r"(?=(?:double_blocks|single_blocks|img_in|txt_in|time_in|vector_in|guidance_in|final_layer)\b)"
_SAI_MODULES = r"(?=(?:joint_blocks|t_embedder|y_embedder)\b)"
_STARTS: tuple[tuple[str, str, str], ...] = (
    (r"(?=lora_(?:unet|te\d?|transformer)_)", "", "kohya"),
    (r"lycoris_", "lora_unet_", "SimpleTuner"),
    (r"(?:base_model\.model\.)?text_encoder_2\.", "lora_te2_", "peft"),
    (r"(?:base_model\.model\.)?text_encoder\.", "lora_te1_", "peft"),
    (r"(?:base_model\.model\.)?unet\.", "lora_unet_", "peft"),
    (r"(?:base_model\.model\.)?text_encoder_3\.", "lora_te3_", "peft"),
    (rf"(?:base_model\.model\.)?transformer\.{_TRANSFORMER_MODULES}", "lora_transformer_", "peft"),
    (r"(?:base_model\.model\.)?(?=(?:single_)?transformer_blocks\b)", "lora_transformer_", "peft"),
    (r"text_encoders\.clip_l\.transformer\.", "lora_te1_", "original layout"),
    (r"text_encoders\.clip_g\.transformer\.", "lora_te2_", "original layout"),
    (r"text_encoders\.t5xxl\.transformer\.", "lora_te3_", "original layout"),
    (rf"(?:base_model\.model\.)?(?:transformer\.)?(?:{_BFL_MODULES}|{_SAI_MODULES})", "lora_unet_", "BFL"),
    (r"(?:base_model\.)?(?:model\.)?diffusion_model\.", "lora_unet_", "original layout"),
    (rf"base_model\.model\.{_UNET_TOP_MODULES}", "lora_unet_", "peft"),
    (r"base_model\.model\.(?=text_model\.|encoder\.)", "lora_te1_", "peft"),
    (_UNET_TOP_MODULES, "lora_unet_", "diffusers before 0.22"),
)
"""Pattern of the start of a key, kohya's prefix for it, and the name of the spelling."""
_ADAPTER = r"(?:[._](?!weight$)[^.]+)?"
"""The name that peft gave the adapter: `lora_A.default`, `lora_A.style`, `lora_A_1`."""
_TENSOR_NAMES: tuple[tuple[str, str], ...] = (
    (r"[._]lora(?:_linear_layer)?\.(down|up)\.weight$", r"lora_\1.weight"),
    (rf"\.lora_A{_ADAPTER}(?:\.weight)?$", "lora_down.weight"),
    (rf"\.lora_B{_ADAPTER}(?:\.weight)?$", "lora_up.weight"),
    (rf"\.lora_magnitude_vector{_ADAPTER}(?:\.weight)?$", "magnitude"),
    (rf"\.((?:hada_[wt]|lokr_[wt])\d(?:_[ab])?){_ADAPTER}$", r"\1"),
    (r"\.((?:lora_(?:down|up|mid)|a1|a2|b1|b2|bm)\.weight)$", r"\1"),
    (r"\.(alpha|scalar|dora_scale|diff|diff_b|w_norm|b_norm|oft_blocks|rescale|on_input)$", r"\1"),
    # IA3's, and every layer's of a model
    (r"\.(weight)$", r"\1"),
)
"""Pattern of the end of a key, and kohya's tensor name for it."""


_XLABS = (
    (r"\.processor\.qkv_lora1\.(down|up)\.", r".img_attn.qkv.lora_\1."),
    (r"\.processor\.qkv_lora2\.(down|up)\.", r".txt_attn.qkv.lora_\1."),
    (r"\.processor\.proj_lora1\.(down|up)\.", r".img_attn.proj.lora_\1."),
    (r"\.processor\.proj_lora2\.(down|up)\.", r".txt_attn.proj.lora_\1."),
    (r"\.processor\.qkv_lora\.(down|up)\.", r".linear1_qkv.lora_\1."),
    (r"\.processor\.proj_lora\.(down|up)\.", r".linear2.lora_\1."),
)
"""Pattern in a key of XLabs, and the module and tensor that it stands for."""


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


@dataclass(frozen=True)
class KohyaSpelling:
    """The tensors of a file under kohya's keys."""

    tensors: dict[str, Tensor]
    spelling: str
    """The spelling that most of them had."""
    notes: list[str]
    """What had to be assumed, for the user."""


def to_kohya_spelling(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path | None = None
) -> KohyaSpelling:
    """The tensors under kohya's keys. Keys that no rule matches are unchanged.

    `path`: the file, beside which peft may have left its config. Raises LorasmithError for two keys that stand for the
    same tensor, and for a peft config that cannot be read or does not fit the tensors.
    """
    converted: dict[str, Tensor] = {}
    original_keys: dict[str, str] = {}
    spelling_counts: Counter[str] = Counter()
    paths: dict[str, str] = {}
    for key, tensor in tensors.items():
        parsed = parse_key(key)
        if parsed is None:
            converted[key] = tensor
            continue
        spelling_counts[parsed.spelling] += 1
        paths[parsed.flat_name] = parsed.path
        new_key = f"{parsed.flat_name}.{parsed.tensor_name}"
        if new_key in original_keys:
            raise LorasmithError(
                f"{original_keys[new_key]} and {key} are the same tensor of the same layer, as if two LoRAs were in "
                "one file; save each in a file of its own"
            )
        original_keys[new_key] = key
        # peft's DoRA magnitude is LyCORIS' dora_scale with another shape, which depends on `lora_up`
        if parsed.tensor_name == "magnitude":
            converted[f"{parsed.flat_name}.dora_scale"] = tensor.flatten()
        else:
            converted[new_key] = tensor
    _reshape_magnitudes(converted)

    spelling = spelling_counts.most_common(1)[0][0] if spelling_counts else "unknown"
    is_of_peft = any(key.startswith("base_model.model.") for key in tensors)
    notes = add_peft_alphas(converted, paths, metadata, path if is_of_peft else None)
    if spelling != "peft":
        notes = []
    return KohyaSpelling(converted, spelling, notes)


def parse_key(key: str) -> KohyaKey | None:
    """A key of any spelling in kohya's; None for a key that is not of a LoRA's layer."""
    key = _without_processor(key)
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


def _without_processor(key: str) -> str:
    """A key of XLabs, whose LoRAs of Flux belong to attention processors, with the name of the module; others as they
    are."""
    for pattern, name in _XLABS:
        key, found = re.subn(pattern, name, key)
        if found:
            break
    return key


def is_lora_key(key: str) -> bool:
    """Whether a key is that of a tensor of a LoRA, of whatever model. `weight` alone is also that of a model."""
    return any(re.search(pattern, key) for pattern, name in _TENSOR_NAMES[:-1])


def _reshape_magnitudes(tensors: dict[str, Tensor]) -> None:
    """Give peft's magnitudes, (out,), the shape of LyCORIS' along outputs, (out, 1[, 1, 1])."""
    for key, tensor in tensors.items():
        up = tensors.get(key.removesuffix("dora_scale") + "lora_up.weight")
        if key.endswith(".dora_scale") and tensor.dim() == 1 and up is not None:
            tensors[key] = tensor.view(-1, *[1] * (up.dim() - 1))
