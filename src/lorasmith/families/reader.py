"""Reading tensors out of `.safetensors` files, one at a time and straight into the dtype asked for.

Plain reads into the final tensor, with one small staging buffer when the dtype changes: nothing is memory-mapped, so
that the peak of resident memory is the weights as loaded. (Format: https://github.com/huggingface/safetensors.)
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor, nn

from lorasmith.core.dtypes import SAFETENSORS_DTYPES
from lorasmith.core.errors import LorasmithError, did_you_mean

_STAGING = 8 << 20


@dataclass(frozen=True)
class TensorRef:
    """Where a tensor lies: `offset` bytes from the start of `path`. `transposed`: to be turned after reading."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    transposed: bool = False

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> TensorRef:
        """Some rows of the first dimension."""
        row = self.nbytes // self.shape[0]
        return replace(self, shape=(stop - start, *self.shape[1:]), offset=self.offset + start * row)

    def view(self, *shape: int) -> TensorRef:
        """The same numbers in another shape."""
        assert math.prod(shape) == math.prod(self.shape)
        return replace(self, shape=shape)


Tensors = Mapping[str, TensorRef]


def read_header(path: Path) -> tuple[dict[str, TensorRef], dict[str, str]]:
    """The tensors of a file by name, and its metadata; only the header is read.

    Raises LorasmithError if the file is no `.safetensors` or is cut off.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= size - 8:
                raise LorasmithError(f"{path}: not a .safetensors file, or cut off inside its header ({size} bytes)")
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        refs = {name: _ref(path, name, entry, 8 + length) for name, entry in header.items()}
    except OSError as error:
        raise LorasmithError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise LorasmithError(f"{path}: not a .safetensors file (its header is not readable)") from None
    end = max((ref.offset + ref.nbytes for ref in refs.values()), default=0)
    if end > size:
        raise LorasmithError(
            f"{path}: cut off: {size} bytes, but its header promises {end}. Download or copy it again."
        )
    return refs, metadata


def _ref(path: Path, name: str, entry: dict, base: int) -> TensorRef:
    dtype = SAFETENSORS_DTYPES.get(entry["dtype"])
    if dtype is None:
        raise LorasmithError(f"{path}: tensor {name} has the dtype {entry['dtype']}, which is not supported")
    begin, end = entry["data_offsets"]
    ref = TensorRef(path, dtype, tuple(entry["shape"]), base + begin)
    if ref.nbytes != end - begin:
        raise LorasmithError(f"{path}: tensor {name} has {end - begin} bytes, its shape {list(ref.shape)} another size")
    return ref


class Reader:
    """Reads tensors; keeps the files open and the staging buffer. Use as a context."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._files: dict[Path, BinaryIO] = {}
        self._staging = torch.empty(0, dtype=torch.uint8)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def read(self, ref: TensorRef, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Tensor:
        """A tensor in `dtype` (None: as stored; whole numbers always as stored) on `device`."""
        if dtype is None or not ref.dtype.is_floating_point:
            dtype = ref.dtype
        if not ref.nbytes:
            return torch.empty(ref.shape, dtype=dtype, device=device)
        file = self._open(ref.path)
        file.seek(ref.offset)
        out = torch.empty(ref.shape, dtype=dtype)
        if dtype == ref.dtype:
            self._fill(file, out.view(-1).view(torch.uint8), ref)
        else:
            self._convert(file, out.view(-1), ref)
        out = out.to(device)
        return out.T.contiguous() if ref.transposed else out

    def _open(self, path: Path) -> BinaryIO:
        if path not in self._files:
            self._files[path] = self._stack.enter_context(path.open("rb", buffering=0))
        return self._files[path]

    def _fill(self, file: BinaryIO, target: Tensor, ref: TensorRef) -> None:
        """Fill `target` (uint8, flat) from the file."""
        view = memoryview(cast(Any, target.numpy()))
        while len(view):
            done = file.readinto(view)  # type: ignore[attr-defined]
            if not done:
                raise LorasmithError(f"{ref.path}: cut off at {file.tell()} bytes. Download or copy it again.")
            view = view[done:]

    def _convert(self, file: BinaryIO, target: Tensor, ref: TensorRef) -> None:
        if not len(self._staging):
            self._staging = torch.empty(_STAGING, dtype=torch.uint8)
        step = _STAGING // ref.dtype.itemsize
        for start in range(0, len(target), step):
            part = target[start : start + step]
            staging = self._staging[: len(part) * ref.dtype.itemsize]
            self._fill(file, staging, ref)
            part.copy_(staging.view(ref.dtype))


def fill(
    module: nn.Module, tensors: Tensors, dtype: torch.dtype, device: torch.device | str, what: str, where: str
) -> None:
    """Give a module made on the meta device its weights. `what` and `where` are for messages.

    Raises LorasmithError naming keys that miss, that are too many, or whose shapes differ: never half a model.
    """
    wanted = dict(module.state_dict())
    check_keys({name: tuple(t.shape) for name, t in wanted.items()}, tensors, what, where)
    with Reader() as reader:
        for name in wanted:
            parent, _, leaf = name.rpartition(".")
            owner = module.get_submodule(parent)
            value = reader.read(tensors[name], dtype, device)
            if leaf in owner._parameters:
                owner._parameters[leaf] = nn.Parameter(value, requires_grad=False)
            else:
                owner._buffers[leaf] = value


def check_keys(wanted: Mapping[str, tuple[int, ...]], found: Tensors, what: str, where: str) -> None:
    """Raise LorasmithError unless the names and shapes are the same."""
    missing, extra = [n for n in wanted if n not in found], [n for n in found if n not in wanted]
    if missing or extra:
        parts = []
        if missing:
            hint = did_you_mean(missing[0], extra)
            parts.append(
                f"{len(missing)} of {len(wanted)} weights are missing ({_some(missing)}){'; ' + hint if hint else ''}"
            )
        if extra:
            parts.append(f"{len(extra)} are unknown ({_some(extra)})")
        raise LorasmithError(
            f"{where}: the {what} does not fit its config: {'; '.join(parts)}. "
            "Nothing is filled in at random: the file is damaged, or made for another model."
        )
    shapes = dict(wanted)
    wrong = [n for n, ref in found.items() if _shape(ref) != shapes[n]]
    if wrong:
        name = wrong[0]
        raise LorasmithError(
            f"{where}: the {what} does not fit its config: {name} is {list(_shape(found[name]))}, "
            f"expected {list(shapes[name])} ({len(wrong)} weights differ)"
        )


def _shape(ref: TensorRef) -> tuple[int, ...]:
    return ref.shape[::-1] if ref.transposed else ref.shape


def _some(names: Iterable[str], limit: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def digest(refs: Tensors) -> str:
    """SHA-256 over names, shapes and bytes of tensors, in the order of their names."""
    result = hashlib.sha256()
    buffer = memoryview(bytearray(_STAGING))
    files: dict[Path, BinaryIO] = {}
    with ExitStack() as stack:
        for name in sorted(refs):
            ref = refs[name]
            result.update(f"{name} {ref.dtype} {ref.shape} {ref.transposed};".encode())
            if ref.path not in files:
                files[ref.path] = stack.enter_context(ref.path.open("rb", buffering=0))
            file = files[ref.path]
            file.seek(ref.offset)
            left = ref.nbytes
            while left:
                done = file.readinto(buffer[: min(left, _STAGING)])  # type: ignore[attr-defined]
                if not done:
                    raise LorasmithError(f"{ref.path}: cut off at {file.tell()} bytes")
                result.update(buffer[:done])
                left -= done
    return result.hexdigest()
