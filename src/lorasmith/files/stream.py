"""A `.safetensors` file with some tensors changed, written one tensor at a time."""

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

BLOCK = 4 << 20
_WORDS = {dtype: word for word, dtype in SAFETENSORS_DTYPES.items()}

Change = Callable[[Tensor, TensorRef], None]
"""Changes a tensor, as it is stored, in place; the reference says where it lies."""


def rewrite(source: Path, target: Path, changes: Mapping[str, Change], metadata: Mapping[str, str]) -> None:
    """Write `source` to `target`, tensors in their order and dtypes, those named in `changes` changed.

    Memory: the largest changed tensor, and what its change needs.
    """
    refs, _ = read_header(source)
    order = sorted(refs, key=lambda name: refs[name].offset)
    with source.open("rb", buffering=0) as old, target.open("wb") as new, Reader() as reader:
        new.write(_header({name: refs[name] for name in order}, metadata))
        for name in order:
            if name not in changes:
                _copy(old, new, refs[name])
                continue
            tensor = reader.read(refs[name])
            changes[name](tensor, refs[name])
            if tensor.numel():
                new.write(memoryview(cast(Any, tensor.view(-1).view(torch.uint8).numpy())))


def _header(refs: Mapping[str, TensorRef], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON, padded to 8 bytes."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    place = 0
    for name, ref in refs.items():
        ends = [place, place + ref.nbytes]
        entries[name] = {"dtype": _WORDS[ref.dtype], "shape": list(ref.shape), "data_offsets": ends}
        place = ends[1]
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _copy(old: BinaryIO, new: BinaryIO, ref: TensorRef) -> None:
    old.seek(ref.offset)
    left = ref.nbytes
    while left:
        block = old.read(min(left, BLOCK))
        if not block:
            raise LorasmithError(f"{ref.path}: cut off at {old.tell()} bytes. Download or copy it again.")
        new.write(block)
        left -= len(block)
