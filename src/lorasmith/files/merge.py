"""LoRAs merged into a checkpoint, which keeps its layout. Tensors are read and written one at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lorasmith.core.dtypes import dtype_name
from lorasmith.core.errors import LorasmithError
from lorasmith.core.file_names import check_output_name
from lorasmith.core.store import atomic_folder, atomic_path
from lorasmith.families.reader import Reader, TensorRef, read_header
from lorasmith.files.lora import (
    DecodedLora,
    FileReport,
    LoraInput,
    lora_factors,
    notes_of,
    rank_counts,
    read,
    restore_adapter,
    updated_metadata,
)
from lorasmith.files.model import BaseWeights, ModelLayers, components_of
from lorasmith.files.stream import TensorChange, rewrite
from lorasmith.formats.rewrite import LayerTensors

BLOCK_NUMBERS = 1 << 20
"""How many numbers of a change are computed at a time."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".onnx", ".h5", ".gguf")

LorasWithStrength = Sequence[tuple[DecodedLora, float]]
FileChanges = Mapping[str, TensorChange]
"""The change of each stored tensor of a file, by its key."""


@dataclass(frozen=True)
class ParameterChange:
    """The location of a parameter, its shape in the model, and a function that changes its values in place."""

    ref: TensorRef
    shape: tuple[int, ...]
    apply: Callable[[Tensor], None]


def merge(
    base: str | Path,
    inputs: Sequence[LoraInput],
    output: Path,
    *,
    base_parts: Sequence[str] = (),
    overwrite: bool = False,
) -> FileReport:
    """Write the base with the LoRAs merged, each at its strength and in their order, in the base's own layout (a
    diffusers folder or one original file), names and dtypes.

    `base_parts`: as in `ModelLayers.from_base`; their files are read, and a note says what is not merged into them.
    Raises LorasmithError if a file does not fit the base, or if a merged weight does not fit into its dtype.
    """
    model = ModelLayers.from_base(base, base_parts)
    assert model.source is not None
    source = model.source.path
    _check_output(output, source, overwrite)
    loras = [(read(lora_input.path, model), lora_input.strength) for lora_input in inputs]
    if not loras:
        raise LorasmithError("name at least one LoRA: lorasmith merge BASE lora.safetensors:0.8 -o OUT")
    # what the report and the file's history say
    note = "merged in: " + ", ".join(f"{i.path.name}:{i.strength:g}" for i in inputs)
    notes = notes_of([lora for lora, _ in loras])
    layers: dict[str, LayerTensors] = {}
    for lora, _ in loras:
        layers |= lora.layers
        if lora.bundled:
            notes.append(f"{len(lora.bundled)} tensors of new tokens in {lora.path} are not merged")

    # all locations and sizes are checked before the first byte is written
    with BaseWeights(model) as weights, torch.no_grad():
        changes = _changes_by_file(_parameter_changes(loras, weights))
        if source.is_file():
            notes += _notes_of_other_files(source, changes)
        used_files: set[Path] = set()
        for component in components_of(layers):
            used_files |= {ref.path.resolve() for ref in weights.component_refs(component).values()}
    if source.is_file():
        with atomic_path(output) as temporary:
            _write_file(source, temporary, changes, note)
    else:
        with atomic_folder(output) as temporary:
            left_out = _write_folder(source, temporary, changes, used_files, note)
        if left_out:
            notes.append(f"left out, since they hold the unmerged weights: {', '.join(left_out)}")
    return FileReport(output, len(layers), ranks=rank_counts(layers), notes=notes)


def _notes_of_other_files(source: Path, changes: Mapping[Path, FileChanges]) -> list[str]:
    """Notes about changes of text encoders in files beside the base, which are not written. Raises LorasmithError if
    there are no others."""
    notes = [
        f"{len(of_file)} changed tensors of {path.name} are not merged: the base is {source.name}, and that file is "
        "beside it; use the LoRA itself for the text encoder"
        for path, of_file in changes.items()
        if path != source
    ]
    if notes and source not in changes:
        raise LorasmithError(f"{source}: nothing in it would change: {'; '.join(notes)}")
    return notes


def _check_output(output: Path, source: Path, overwrite: bool) -> None:
    """Raise LorasmithError if the output would replace something it must not, or is not of the base's layout."""
    # the base is read while the output is written, so it must never be replaced, not even with --overwrite
    if output.exists() and output.resolve() == source.resolve():
        raise LorasmithError(f"{output}: is the base itself; write to another path with -o")
    if source.is_dir() and source.resolve() in output.resolve().parents:
        raise LorasmithError(f"{output}: lies inside the base; write to another path with -o")
    if output.exists() and not overwrite:
        raise LorasmithError(f"{output}: exists already; give --overwrite, or another name with -o")
    # the output has the base's layout
    if source.is_file():
        if output.is_dir() or output.suffix != ".safetensors":
            raise LorasmithError(f"{output}: the base is one file, so give the name of a .safetensors file with -o")
    elif output.is_file() or output.suffix == ".safetensors":
        raise LorasmithError(f"{output}: the base is a folder, so give the name of a folder with -o")
    check_output_name(output)


# --- the changes of one layer


@dataclass(frozen=True)
class _LayerMerge:
    """The changes of one layer by several files, in their order."""

    layer: str
    loras: LorasWithStrength
    shape: tuple[int, ...]

    def change_weight(self, weight: Tensor) -> None:
        """Merge into the weight, in place. `weight`: of the layer's shape, in any dtype."""
        factors: list[tuple[Tensor, Tensor]] = []
        for lora, strength in self.loras:
            plain = _plain_lora_without_base(lora, self.layer)
            if plain is not None:
                up, down = lora_factors(plain)
                factors.append((strength * up, down))
        # only changes that do not depend on the weight can be added block by block
        if len(factors) == len(self.loras):
            self._add_products(weight, factors)
            return
        # other changes may depend on the weight as the files before have left it
        merged = weight.float()
        for lora, strength in self.loras:
            adapter = restore_adapter(lora, self.layer, merged)
            with lora.explain_shape_errors(self.layer):
                merged.add_(adapter.delta(merged), alpha=strength)
        _copy_back(merged, weight)

    def _add_products(self, weight: Tensor, factors: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Add products up @ down, a block of rows at a time."""
        row_numbers = factors[0][1].shape[1]
        block_rows = max(1, BLOCK_NUMBERS // row_numbers)
        for start in range(0, self.shape[0], block_rows):
            rows = weight[start : start + block_rows]
            merged = rows.float()
            for up, down in factors:
                merged.view(len(rows), -1).addmm_(up[start : start + block_rows], down)
            _copy_back(merged, rows)

    def change_bias(self, bias: Tensor) -> None:
        """Merge into the layer's bias, in place."""
        merged = bias.float()
        for lora, strength in self.loras:
            change = _bias_change(lora.layers[self.layer])
            if change is not None:
                merged += strength * change.float().view_as(merged)
        _copy_back(merged, bias)


def _copy_back(merged: Tensor, parameter: Tensor) -> None:
    """Copy merged float32 values into the parameter, unless `float()` returned the parameter itself."""
    if merged.data_ptr() != parameter.data_ptr():
        parameter.copy_(merged)


def _bias_change(tensors: LayerTensors) -> Tensor | None:
    return tensors.get("diff_b", tensors.get("b_norm"))


def _plain_lora_without_base(lora: DecodedLora, layer: str) -> LayerTensors | None:
    """Plain LoRA tensors of a LoRA's change; None for DoRA and other kinds."""
    tensors = lora.layers[layer]
    if "lora_up.weight" not in tensors or "dora_scale" in tensors:
        return None
    return lora.plain_lora(layer)


# --- from parameters to the tensors of files


def _parameter_changes(loras: LorasWithStrength, weights: BaseWeights) -> list[ParameterChange]:
    """The changes of all weights and biases."""
    changes: list[ParameterChange] = []
    layer_names = dict.fromkeys(name for lora, _ in loras for name in lora.layers)
    for layer in layer_names:
        shape = weights.model.layers[layer].shape
        layer_loras = [(lora, strength) for lora, strength in loras if layer in lora.layers]
        layer_merge = _LayerMerge(layer, layer_loras, shape)
        changes.append(ParameterChange(weights.require_ref(layer), shape, layer_merge.change_weight))
        if any(_bias_change(lora.layers[layer]) is not None for lora, _ in layer_loras):
            bias_ref = weights.require_ref(layer, "bias")
            changes.append(ParameterChange(bias_ref, shape[:1], layer_merge.change_bias))
    return changes


def _changes_by_file(changes: Sequence[ParameterChange]) -> dict[Path, FileChanges]:
    """The change of each stored tensor, by file and key. The original layout can hold several parameters in one tensor
    (OpenCLIP's q, k, v)."""
    stored_tensors: dict[Path, list[tuple[str, TensorRef]]] = {}
    grouped: dict[Path, dict[str, list[ParameterChange]]] = {}
    for change in changes:
        path, offset = change.ref.path, change.ref.offset
        if path not in stored_tensors:
            stored_tensors[path] = list(read_header(path)[0].items())
        # the stored tensor that contains the parameter
        stored = stored_tensors[path]
        key = next(key for key, ref in stored if ref.offset <= offset < ref.offset + ref.nbytes)
        grouped.setdefault(path, {}).setdefault(key, []).append(change)
    by_file: dict[Path, FileChanges] = {}
    for path, changes_by_key in grouped.items():
        by_file[path] = {key: _tensor_change(key, parameters) for key, parameters in changes_by_key.items()}
    return by_file


def _tensor_change(key: str, changes: Sequence[ParameterChange]) -> TensorChange:
    """The change of a stored tensor by the changes of the parameters in it."""

    def change_tensor(tensor: Tensor, stored: TensorRef) -> None:
        was_finite = _is_finite(tensor)
        number_size = stored.dtype.itemsize
        for change in changes:
            ref = change.ref
            start = (ref.offset - stored.offset) // number_size
            values = tensor.view(-1)[start : start + ref.nbytes // number_size].view(ref.shape)
            if ref.transposed or ref.halves_swapped or ref.scale is not None:
                scale = None if ref.scale is None else _scale_of(ref)
                as_in_model = _as_in_model(values, ref, scale)
                change.apply(as_in_model.view(change.shape))
                values.copy_(_as_stored(as_in_model, ref, scale))
            else:
                change.apply(values.view(change.shape))
        # a base that is damaged already is not the LoRA's fault
        if was_finite and not _is_finite(tensor):
            raise LorasmithError(
                f"{stored.path}: the merged {key} does not fit into {dtype_name(stored.dtype)}; nothing was written"
            )

    return change_tensor


def _is_finite(tensor: Tensor) -> bool:
    # fp8 has no such operation
    numbers = tensor.float() if tensor.dtype.itemsize == 1 and tensor.is_floating_point() else tensor
    return bool(torch.isfinite(numbers).all())


def _as_in_model(values: Tensor, ref: TensorRef, scale: Tensor | None) -> Tensor:
    """A copy of a parameter's stored numbers as the model has them: OpenCLIP's text projection is stored transposed,
    the last modulation of Flux and SD3 with its halves exchanged, fp8 weights divided by a scale."""
    if scale is not None:
        values = values.float() * scale
    if ref.halves_swapped:
        values = values.roll(len(values) // 2, 0)
    return values.T.contiguous() if ref.transposed else values.contiguous()


def _as_stored(values: Tensor, ref: TensorRef, scale: Tensor | None) -> Tensor:
    """The inverse of `_as_in_model`."""
    if ref.transposed:
        values = values.T
    if ref.halves_swapped:
        values = values.roll(len(values) // 2, 0)
    if scale is None:
        return values
    # the scale maps the largest weight to the largest number of the dtype, so a weight that grew may be beyond it
    largest = torch.finfo(ref.dtype).max
    return (values / scale).clamp(-largest, largest)


def _scale_of(ref: TensorRef) -> Tensor:
    """The scale of an fp8 weight, for all its rows or for each."""
    assert ref.scale is not None
    with Reader() as reader:
        scale = reader.read(ref.scale, torch.float32)
    return scale.reshape(-1, *[1] * (len(ref.shape) - 1)) if scale.numel() > 1 else scale.reshape(())


# --- writing


def _write_file(source: Path, target: Path, changes: Mapping[Path, FileChanges], note: str) -> None:
    _, metadata = read_header(source)
    new_metadata = updated_metadata(metadata, note) | {"format": "pt"}
    rewrite(source, target, changes.get(source, {}), new_metadata)


def _write_folder(
    source: Path, target: Path, changes: Mapping[Path, FileChanges], used_files: set[Path], note: str
) -> list[str]:
    """Write the folder with the changed files; the names of the files that are left out.

    Left out are other files of weights beside the changed ones, and at the top of the folder, since they would hold the
    old weights. `used_files` are the files that the base is read from.
    """
    changed_files = {path.resolve(): path for path in changes}
    changed_folders = {path.parent.resolve() for path in changes}
    left_out: list[str] = []
    for file in _visible_files(source):
        relative = file.relative_to(source)
        copy = target / relative
        copy.parent.mkdir(parents=True, exist_ok=True)
        resolved = file.resolve()
        if resolved in changed_files:
            _write_file(changed_files[resolved], copy, changes, note)
            continue
        # weights in another format or precision would still be the old ones
        is_beside_changed = len(relative.parts) == 1 or file.parent.resolve() in changed_folders
        if file.suffix in WEIGHT_SUFFIXES and is_beside_changed and resolved not in used_files:
            left_out.append(str(relative))
        else:
            shutil.copyfile(file, copy)
    return left_out


def _visible_files(folder: Path) -> list[Path]:
    """All files below a folder, sorted, without hidden ones and those in hidden folders (such as `.cache`)."""
    files: list[Path] = []
    for path in sorted(folder.rglob("*")):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not is_hidden:
            files.append(path)
    return files
