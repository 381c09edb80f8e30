"""Names of dtypes: those of configs and options, and those of `.safetensors` files."""

from __future__ import annotations

import torch

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""As configs and options call them."""

SAFETENSORS_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""As the header of a `.safetensors` file calls them."""


def dtype_of(precision: str | None) -> torch.dtype | None:
    """The dtype of a `precision` setting; None for `auto` and for no setting."""
    return None if precision in (None, "auto") else DTYPES[precision]


def dtype_name(dtype: torch.dtype) -> str:
    """torch's name without the module: `float32`."""
    return str(dtype).removeprefix("torch.")
