"""Which base model InvokeAI takes a LoRA file for. A file whose base it cannot tell is refused; one that it takes for
another base can be used with that one only.

It asks the keys in the order of the file, and the first answer counts: the width of a cross-attention's input, that of
a text encoder's attention, or that of a time embedding. Written from what its code of August 2026 does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

FAMILY_BY_WIDTH = {768: "sd1", 1024: "sd2", 1280: "sdxl", 2048: "sdxl"}
"""1280 is the width of the time embedding, which all families have; InvokeAI takes it for a sign of SDXL."""
UNKNOWN_WIDTH = "other"
"""The answer for a width of no published model, at which InvokeAI refuses a file."""
_CROSS_ATTENTION = re.compile(r"lora_unet_.*_attn2_to_[kv]$")
_TEXT_ATTENTION = re.compile(r"lora_(te\d?)_.*_self_attn_")
_TIME_EMBEDDING = re.compile(r"lora_unet_.*time_emb_proj$")
_DEEP_TRANSFORMER = re.compile(
    r"lora_unet_(?:(?:down|up|input|output)_blocks_\d+_(?:attentions_)?\d+|mid_block_attentions_\d+|middle_block_\d+)"
    r"_transformer_blocks_(?:[2-9]|\d\d)_"
)


def base_for_invoke(tensors: Mapping[str, Tensor]) -> tuple[str | None, str]:
    """`sd1`, `sd2` or `sdxl`, `UNKNOWN_WIDTH`, or None if no key tells; and the layer that tells it. `tensors`: by
    kohya's keys, in the order of the file."""
    deep_layer = next((key for key in tensors if _DEEP_TRANSFORMER.match(key)), "").partition(".")[0]
    width, flat_name = _first_width(tensors)
    if width in FAMILY_BY_WIDTH:
        return FAMILY_BY_WIDTH[width], flat_name
    # only attentions of SDXL have more than two transformer blocks
    if deep_layer:
        return "sdxl", deep_layer
    return (UNKNOWN_WIDTH, flat_name) if width is not None else (None, "")


def loads_as(tensors: Mapping[str, Tensor], family: str) -> bool:
    """Whether InvokeAI takes a file for one of this family. A base that is not of a published size is judged as one
    that is."""
    base, layer = base_for_invoke(tensors)
    return base == family or (base == UNKNOWN_WIDTH and _TIME_EMBEDDING.match(layer) is None)


def _first_width(tensors: Mapping[str, Tensor]) -> tuple[int | None, str]:
    """The first width that a key tells, and its layer."""
    # SDXL's two text encoders answer together; each tensor replaces what the one before said, even by nothing
    text_widths: dict[str, int | None] = {}
    for key, tensor in tensors.items():
        flat_name, _, tensor_name = key.partition(".")
        width: int | None = None
        text = _TEXT_ATTENTION.match(flat_name)
        if _TIME_EMBEDDING.match(flat_name):
            width = tensor.shape[1] if tensor_name == "lora_down.weight" else None
        elif text or _CROSS_ATTENTION.match(flat_name):
            width = _input_width(flat_name, tensor_name, tensor, tensors)
        if text and text[1] != "te":
            text_widths[text[1]] = width
            first, second = text_widths.get("te1"), text_widths.get("te2")
            width = None if first is None or second is None else first + second
        if width is not None:
            return width, flat_name
    return None, ""


def _input_width(flat_name: str, tensor_name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> int | None:
    """The width that one tensor of a layer tells; None if it tells none."""
    if tensor_name in ("lora_down.weight", "hada_w1_b", "hada_w2_b", "diff"):
        return tensor.shape[1] if tensor.dim() > 1 else None
    if tensor_name.startswith("lokr_"):
        # of LoKr only two whole factors tell
        first, second = tensors.get(f"{flat_name}.lokr_w1"), tensors.get(f"{flat_name}.lokr_w2")
        return None if first is None or second is None else first.shape[1] * second.shape[1]
    # IA3 of a text encoder; its vector has the width of the outputs, which attention's inputs have too
    is_text = not flat_name.startswith("lora_unet_")
    return tensor.shape[0] if tensor_name == "weight" and is_text and tensor.dim() else None
