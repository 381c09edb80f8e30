"""Weights in 8 bits with scales beside them, as ComfyUI stores them, and other quantised files, which are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from lorasmith.core.errors import LorasmithError
from lorasmith.families.reader import TensorRef

_SCALES = (".scale_weight", ".weight_scale")
"""Names of the scale of a layer's weight, in files of 2024 and of 2025."""
_UNUSED = (".scale_input", ".input_scale", ".comfy_quant")
"""What only a product in fp8 itself needs; here weights are turned into the dtype of the computation first."""
_MARKER = "scaled_fp8"
_QUANTISED = r"\.(?:absmax|nested_absmax|quant_map|quant_state\.\w+|qweight|qzeros|weight_scale_2)$"
"""Tensors of NF4 (bitsandbytes), GPTQ and NVFP4 files."""
_EIGHT_BIT_FLOATS = (torch.float8_e4m3fn, torch.float8_e5m2)


def with_scales(refs: Mapping[str, TensorRef], path: Path) -> dict[str, TensorRef]:
    """The tensors of a part without those of the scales, which the weights refer to instead.

    Raises LorasmithError for weights that are quantised in another way.
    """
    result: dict[str, TensorRef] = {}
    scales: dict[str, TensorRef] = {}
    for name, ref in refs.items():
        if re.search(_QUANTISED, name):
            raise LorasmithError(
                f"{path}: its weights are quantised (by its key {name}), which is not read as a base. Use the file in "
                "bf16, fp16 or fp8; with `memory = 4` it is held in 8 bits while it is trained on"
            )
        if name.endswith(_SCALES):
            scales[name.rpartition(".")[0] + ".weight"] = ref
        elif not name.endswith(_UNUSED) and name.rpartition(".")[2] != _MARKER:
            result[name] = ref
    for name, scale in scales.items():
        weight = result.get(name)
        if weight is None or weight.dtype not in _EIGHT_BIT_FLOATS:
            found = "there is no such weight" if weight is None else f"it is stored in {weight.dtype}"
            raise LorasmithError(f"{path}: there is a scale for {name}, but {found}; weights in fp8 have scales")
        result[name] = weight.with_scale(scale)
    return result
