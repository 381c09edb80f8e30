"""Reading tensors from `.safetensors` files, one at a time and straight into the requested dtype.

Plain reads into the final tensor, with one small staging buffer when the dtype changes. Nothing is memory-mapped, so
the peak of resident memory is the weights as loaded. (Format: https://github.com/huggingface/safetensors.)
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor, nn

from lorasmith.core.dtypes import SAFETENSORS_DTYPES, dtype_name
from lorasmith.core.errors import LorasmithError, did_you_mean

_COMMON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_STAGING_BYTES = 8 << 20


@dataclass(frozen=True)
class TensorRef:
    """Where a tensor is stored."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    """The shape in the file."""
    offset: int
    """In bytes from the start of the file."""
    transposed: bool = False
    """Whether to transpose the tensor after reading."""
    halves_swapped: bool = False
    """Whether to exchange the halves of the first dimension after reading."""
    scale: TensorRef | None = None
    """What the stored numbers are multiplied by (fp8 files): one number, or one for each row."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def shape_read(self) -> tuple[int, ...]:
        """The shape of the tensor that is read."""
        return self.shape[::-1] if self.transposed else self.shape

    def rows(self, start: int, stop: int) -> TensorRef:
        """Some rows of the first dimension."""
        bytes_per_row = self.nbytes // self.shape[0]
        scale = self.scale
        if scale is not None and math.prod(scale.shape) > 1:
            scale = scale.rows(start, stop)
        shape, offset = (stop - start, *self.shape[1:]), self.offset + start * bytes_per_row
        return replace(self, shape=shape, offset=offset, scale=scale)

    def with_halves_swapped(self) -> TensorRef:
        """The same rows, the second half first."""
        return replace(self, halves_swapped=True)

    def with_scale(self, scale: TensorRef) -> TensorRef:
        """The same numbers times `scale`: one number, or one for each row. Raises LorasmithError for other shapes."""
        count = math.prod(scale.shape)
        if count != 1 and count != self.shape[0]:
            raise LorasmithError(
                f"{self.path}: a scale of {count} numbers for a weight of {self.shape[0]} rows; it must be one number, "
                "or one for each row"
            )
        return replace(self, scale=scale)

    def view(self, *shape: int) -> TensorRef:
        """The same numbers in another shape."""
        assert math.prod(shape) == math.prod(self.shape)
        return replace(self, shape=shape)


Tensors = Mapping[str, TensorRef]


def read_header(path: Path) -> tuple[dict[str, TensorRef], dict[str, str]]:
    """The tensors of a file by name, and its metadata. Only the header is read.

    Raises LorasmithError if the file is not a `.safetensors` file or is cut off.
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
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata are texts")
        refs = {name: _ref(path, name, entry, data_start=8 + length) for name, entry in header.items()}
    except OSError as error:
        raise LorasmithError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise LorasmithError(f"{path}: not a .safetensors file (its header is not readable)") from None

    end = max((ref.offset + ref.nbytes for ref in refs.values()), default=0)
    if end > size:
        raise LorasmithError(
            f"{path}: cut off: it has {size} bytes, but its header announces {end}. Download or copy it again."
        )
    return refs, metadata


def _ref(path: Path, name: str, entry: dict[str, Any], data_start: int) -> TensorRef:
    """A tensor from its entry in the header, whose offsets count from `data_start`."""
    dtype = SAFETENSORS_DTYPES.get(entry["dtype"])
    if dtype is None:
        raise LorasmithError(f"{path}: tensor {name} has the dtype {entry['dtype']}, which is not supported")
    begin, end = entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (begin, end, *entry["shape"])):
        raise ValueError("sizes and offsets are whole numbers")
    ref = TensorRef(path, dtype, tuple(entry["shape"]), data_start + begin)
    if ref.nbytes != end - begin:
        raise LorasmithError(
            f"{path}: tensor {name} has {end - begin} bytes, but its shape {list(ref.shape)} needs {ref.nbytes}"
        )
    return ref


def _is_converted_on(device: torch.device, ref: TensorRef) -> bool:
    """Whether a tensor is converted on its device: a GPU converts faster than a CPU can read."""
    return device.type != "cpu" and ref.scale is None and ref.dtype in _COMMON_DTYPES


class Reader:
    """Reads tensors. Holds the open files and the staging buffer. Use as a context manager."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._files: dict[Path, BinaryIO] = {}
        self._staging = torch.empty(0, dtype=torch.uint8)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def read(self, ref: TensorRef, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Tensor:
        """A tensor in `dtype` on `device`. `dtype` None: as stored, or float32 if it has a scale; integers are always
        read as stored."""
        if dtype is None and ref.scale is not None:
            dtype = torch.float32
        if dtype is None or not ref.dtype.is_floating_point:
            dtype = ref.dtype
        if not ref.nbytes:
            return torch.empty(ref.shape, dtype=dtype, device=device)
        file = self._open(ref.path)
        file.seek(ref.offset)
        out = torch.empty(ref.shape, dtype=ref.dtype if _is_converted_on(torch.device(device), ref) else dtype)
        if ref.scale is not None:
            self._convert_scaled(file, out.view(len(out), -1), ref, ref.scale)
        elif out.dtype == ref.dtype:
            self._fill(file, out.view(-1).view(torch.uint8), ref)
        else:
            self._convert(file, out.view(-1), ref)
        if ref.halves_swapped:
            out = out.roll(len(out) // 2, 0)
        out = out.to(device).to(dtype)
        return out.T.contiguous() if ref.transposed else out

    def _open(self, path: Path) -> BinaryIO:
        if path not in self._files:
            self._files[path] = self._stack.enter_context(path.open("rb", buffering=0))
        return self._files[path]

    def _fill(self, file: BinaryIO, target: Tensor, ref: TensorRef) -> None:
        """Fill `target` (uint8, flat) from the file."""
        view = memoryview(cast(Any, target.numpy()))
        while len(view):
            count = file.readinto(view)  # type: ignore[attr-defined]
            if not count:
                raise LorasmithError(f"{ref.path}: cut off at {file.tell()} bytes. Download or copy it again.")
            view = view[count:]

    def _convert(self, file: BinaryIO, target: Tensor, ref: TensorRef) -> None:
        """Fill `target` (flat, another dtype) from the file, one staging buffer after the other."""
        if not len(self._staging):
            self._staging = torch.empty(_STAGING_BYTES, dtype=torch.uint8)
        step = _STAGING_BYTES // ref.dtype.itemsize
        for start in range(0, len(target), step):
            part = target[start : start + step]
            staging = self._staging[: len(part) * ref.dtype.itemsize]
            self._fill(file, staging, ref)
            part.copy_(staging.view(ref.dtype))

    def _convert_scaled(self, file: BinaryIO, target: Tensor, ref: TensorRef, scale: TensorRef) -> None:
        """Fill `target` (rows, columns) from the file, times its scale. Products are rounded once, from float32."""
        factors = self.read(scale, torch.float32).view(-1, 1).expand(len(target), 1)
        file.seek(ref.offset)
        rows_at_once = max(1, _STAGING_BYTES // (4 * target.shape[1]))
        for start in range(0, len(target), rows_at_once):
            part = target[start : start + rows_at_once]
            values = torch.empty(part.shape)
            self._convert(file, values.view(-1), ref)
            part.copy_(values * factors[start : start + rows_at_once])


def fill(
    module: nn.Module, tensors: Tensors, dtype: torch.dtype, device: torch.device | str, title: str, where: str
) -> None:
    """Give a module that was made on the meta device its weights. `title` and `where` name it in errors.

    Raises LorasmithError that names missing and unknown keys and differing shapes, or tensors that hold NaN or infinite
    numbers; a model is never partly filled.
    """
    state = module.state_dict()
    check_keys({name: tuple(tensor.shape) for name, tensor in state.items()}, tensors, title, where)
    largest: dict[str, Tensor] = {}
    with Reader() as reader:
        for name in state:
            parent, _, attribute = name.rpartition(".")
            owner = module.get_submodule(parent)
            value = reader.read(tensors[name], dtype, device)
            if attribute in owner._parameters:
                owner._parameters[attribute] = nn.Parameter(value, requires_grad=False)
            else:
                owner._buffers[attribute] = value
            # The largest magnitude is finite only if all numbers are. It stays on the device, which is read once, at
            # the end. (A sum in float32 would make a copy of the tensor in float32 on the CPU.)
            if value.is_floating_point() and value.numel():
                largest[name] = torch.linalg.vector_norm(value, math.inf)
        finite = torch.stack(list(largest.values())).isfinite().tolist() if largest else []
        bad = [name for name, is_finite in zip(largest, finite, strict=True) if not is_finite]
        if bad:
            raise LorasmithError(_not_finite(reader, tensors, bad, dtype, title, where))


def _not_finite(reader: Reader, tensors: Tensors, bad: list[str], dtype: torch.dtype, title: str, where: str) -> str:
    """What is wrong with tensors whose numbers are not finite in `dtype`: in the file, or only in that precision."""
    stored = reader.read(tensors[bad[0]]).float()
    if bool(stored.isfinite().all()):
        largest = float(stored.abs().max())
        return (
            f"{where}: {bad[0]} of the {title} has numbers up to {largest:.3g}, which {dtype_name(dtype)} cannot hold; "
            "use another precision (bf16 or fp32)"
        )
    count = "a tensor" if len(bad) == 1 else f"{len(bad)} tensors"
    return (
        f"{tensors[bad[0]].path}: the {title} has NaN or infinite numbers in {count} ({_first(bad)}). "
        "The file is damaged, or was merged or saved badly; download it again or use another one."
    )


def check_keys(expected: Mapping[str, tuple[int, ...]], found: Tensors, title: str, where: str) -> None:
    """Raise LorasmithError unless names and shapes are the same."""
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    problems: list[str] = []
    if missing:
        hint = did_you_mean(missing[0], unknown)
        problems.append(
            f"{len(missing)} of {len(expected)} weights are missing ({_first(missing)})" + (f"; {hint}" if hint else "")
        )
    if unknown:
        problems.append(f"{len(unknown)} are unknown ({_first(unknown)})")
    if problems:
        raise LorasmithError(
            f"{where}: the {title} does not fit its config: {'; '.join(problems)}. "
            "Nothing is filled in at random: the file is damaged, or made for another model."
        )

    differing = [name for name, ref in found.items() if ref.shape_read != expected[name]]
    if differing:
        name = differing[0]
        raise LorasmithError(
            f"{where}: the {title} does not fit its config: {name} is {list(found[name].shape_read)}, "
            f"expected {list(expected[name])} ({len(differing)} weights differ)"
        )


def _first(names: list[str], limit: int = 5) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def digest(refs: Tensors) -> str:
    """SHA-256 over names, shapes and bytes of tensors and their scales, in the order of their names."""
    result = hashlib.sha256()
    refs = {**refs, **{f"{name} scale": ref.scale for name, ref in refs.items() if ref.scale is not None}}
    buffer = memoryview(bytearray(_STAGING_BYTES))
    files: dict[Path, BinaryIO] = {}
    with ExitStack() as stack:
        for name in sorted(refs):
            ref = refs[name]
            result.update(f"{name} {ref.dtype} {ref.shape} {ref.transposed};".encode())
            if ref.path not in files:
                files[ref.path] = stack.enter_context(ref.path.open("rb", buffering=0))
            file = files[ref.path]
            file.seek(ref.offset)
            remaining = ref.nbytes
            while remaining:
                count = file.readinto(buffer[: min(remaining, _STAGING_BYTES)])  # type: ignore[attr-defined]
                if not count:
                    raise LorasmithError(f"{ref.path}: cut off at {file.tell()} bytes")
                result.update(buffer[:count])
                remaining -= count
    return result.hexdigest()
