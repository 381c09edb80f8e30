"""A copy of a `.safetensors` file with some tensors changed, written one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from lorasmith.core.dtypes import SAFETENSORS_DTYPES
from lorasmith.core.errors import LorasmithError
from lorasmith.families.reader import Reader, TensorRef, read_header

COPY_BYTES = 4 << 20
"""Bytes that are copied at a time."""
_DTYPE_NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}

TensorChange = Callable[[Tensor, TensorRef], None]
"""Changes a tensor, in the dtype that it is stored in, in place. The reference is its location in the file."""


def rewrite(source: Path, target: Path, changes: Mapping[str, TensorChange], metadata: Mapping[str, str]) -> None:
    """Write `source` to `target`: all tensors in their order and dtypes, with the changes of those in `changes`.

    Needs memory for the largest changed tensor, and for its change.
    """
    refs, _ = read_header(source)
    refs = dict(sorted(refs.items(), key=lambda item: item[1].offset))
    with source.open("rb", buffering=0) as old, target.open("wb") as new, Reader() as reader:
        new.write(_header(refs, metadata))
        for key, ref in refs.items():
            if key not in changes:
                _copy_bytes(old, new, ref)
                continue
            tensor = reader.read(ref)
            changes[key](tensor, ref)
            if tensor.numel():
                # as bytes, since numpy has no bf16
                new.write(memoryview(cast(Any, tensor.view(-1).view(torch.uint8).numpy())))


def _header(refs: Mapping[str, TensorRef], metadata: Mapping[str, str]) -> bytes:
    """The header of a file with these tensors one after the other: its length, and JSON padded to 8 bytes."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for key, ref in refs.items():
        end = start + ref.nbytes
        entries[key] = {"dtype": _DTYPE_NAMES[ref.dtype], "shape": list(ref.shape), "data_offsets": [start, end]}
        start = end
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def _copy_bytes(old: BinaryIO, new: BinaryIO, ref: TensorRef) -> None:
    """Copy a tensor's bytes. Raises LorasmithError if the file ends before it."""
    old.seek(ref.offset)
    remaining = ref.nbytes
    while remaining:
        block = old.read(min(remaining, COPY_BYTES))
        if not block:
            raise LorasmithError(f"{ref.path}: ends after {old.tell()} bytes. Download or copy it again.")
        new.write(block)
        remaining -= len(block)
