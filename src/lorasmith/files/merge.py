"""LoRAs written into a checkpoint, which keeps its layout; tensors are read and written one at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lorasmith.core.dtypes import dtype_name
from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import atomic_folder, atomic_path
from lorasmith.families.reader import TensorRef, read_header
from lorasmith.files.lora import UNFIT, Lora, Report, Use, carried, product_of, ranks_of, read, restore, unfit
from lorasmith.files.model import Model, Weights, components
from lorasmith.files.stream import Change, rewrite
from lorasmith.formats.rewrite import LayerTensors, plain

ROWS = 1 << 20
"""Numbers of a change that are computed at a time."""
WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".onnx", ".h5", ".gguf")

Parts = Sequence[tuple[Lora, float]]


@dataclass(frozen=True)
class Target:
    """Where a parameter lies, its shape in the model, and what changes it in place."""

    ref: TensorRef
    shape: tuple[int, ...]
    change: Callable[[Tensor], None]


def merge(base: str | Path, uses: Sequence[Use], output: Path, *, overwrite: bool = False) -> Report:
    """Write the base with the LoRAs in it, each at its strength, one on top of the other, in the base's own layout
    (a diffusers folder or one original file), names and dtypes.

    Raises LorasmithError if a file does not fit the base, or if a merged weight does not fit into its dtype.
    """
    model = Model.of(base)
    assert model.source is not None
    _check_output(output, model, overwrite)
    loras = [(read(use.path, model), use.strength) for use in uses]
    if not loras:
        raise LorasmithError("name at least one LoRA: lorasmith merge BASE lora.safetensors:0.8 -o OUT")
    with Weights(model) as weights, torch.no_grad():
        changes = _by_file(_targets(loras, weights))
        parts = components(layer for lora, _ in loras for layer in lora.layers)
        used = {ref.path.resolve() for part in parts for ref in weights.part(part).values()}
    note = "merged in: " + ", ".join(f"{use.path.name}:{use.strength:g}" for use in uses)
    notes = [
        f"{len(lora.bundled)} tensors of new words in {lora.path} are not merged" for lora, _ in loras if lora.bundled
    ]
    if model.source.path.is_file():
        with atomic_path(output) as temporary:
            _write(model.source.path, temporary, changes, note)
    else:
        with atomic_folder(output) as temporary:
            notes += _write_folder(model.source.path, temporary, changes, used, note)
    layers = {name: tensors for lora, _ in loras for name, tensors in lora.layers.items()}
    return Report(output, len(layers), ranks=ranks_of(layers), notes=notes)


def _check_output(output: Path, model: Model, overwrite: bool) -> None:
    assert model.source is not None
    source = model.source.path
    if output.exists() and output.resolve() == source.resolve():
        raise LorasmithError(f"{output}: is the base itself; write to another place with -o")
    if source.is_dir() and source.resolve() in output.resolve().parents:
        raise LorasmithError(f"{output}: lies inside the base; write to another place with -o")
    if output.exists() and not overwrite:
        raise LorasmithError(f"{output}: is there already; give --overwrite, or another name with -o")
    if source.is_file() and (output.is_dir() or output.suffix != ".safetensors"):
        raise LorasmithError(f"{output}: the base is one file, so give the name of a .safetensors file with -o")
    if source.is_dir() and (output.is_file() or output.suffix == ".safetensors"):
        raise LorasmithError(f"{output}: the base is a folder, so give the name of a folder with -o")


@dataclass(frozen=True)
class _Layer:
    """Changes of one layer's weight by several files, in their order."""

    name: str
    parts: Parts
    shape: tuple[int, ...]

    def change(self, weight: Tensor) -> None:
        """In place. `weight`: of the layer's shape, in any dtype."""
        low = [_low(lora, self.name) for lora, _ in self.parts]
        if all(tensors is not None for tensors in low):
            pairs = [product_of(tensors) for tensors in low if tensors is not None]
            self._by_rows(weight, [(s * up, down) for (up, down), (_, s) in zip(pairs, self.parts, strict=True)])
            return
        whole = weight.float()
        for lora, strength in self.parts:
            adapter = restore(lora, self.name, whole)
            try:
                whole.add_(adapter.delta(whole), alpha=strength)
            except UNFIT:
                raise unfit(lora.path, lora.model, self.name, lora.layers[self.name]) from None
        if whole.data_ptr() != weight.data_ptr():
            weight.copy_(whole)

    def _by_rows(self, weight: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        count = max(1, ROWS // pairs[0][1].shape[1])
        for start in range(0, self.shape[0], count):
            rows = weight[start : start + count]
            changed = rows.float()
            for up, down in pairs:
                changed.view(len(rows), -1).addmm_(up[start : start + count], down)
            if changed.data_ptr() != rows.data_ptr():
                rows.copy_(changed)

    def change_bias(self, bias: Tensor) -> None:
        """The same of the layer's bias."""
        whole = bias.float()
        for lora, strength in self.parts:
            if (found := _bias(lora.layers[self.name])) is not None:
                whole += strength * found.float().view_as(whole)
        if whole.data_ptr() != bias.data_ptr():
            bias.copy_(whole)


def _bias(tensors: LayerTensors) -> Tensor | None:
    return next((tensors[w] for w in ("diff_b", "b_norm") if w in tensors), None)


def _low(lora: Lora, layer: str) -> LayerTensors | None:
    """Plain LoRA tensors of a change; None for other kinds."""
    tensors, shape = lora.layers[layer], lora.model.layers[layer].shape
    if "lora_up.weight" not in tensors or "dora_scale" in tensors:
        return None
    try:
        return plain(tensors, shape)
    except UNFIT:
        raise unfit(lora.path, lora.model, layer, tensors) from None


def _targets(loras: Parts, weights: Weights) -> list[Target]:
    targets: list[Target] = []
    for name in dict.fromkeys(layer for lora, _ in loras for layer in lora.layers):
        parts, shape = [(lora, s) for lora, s in loras if name in lora.layers], weights.model.layers[name].shape
        layer = _Layer(name, parts, shape)
        targets.append(Target(weights.place(name), shape, layer.change))
        if any(_bias(lora.layers[name]) is not None for lora, _ in parts):
            targets.append(Target(weights.place(name, "bias"), shape[:1], layer.change_bias))
    return targets


def _by_file(targets: Sequence[Target]) -> dict[Path, dict[str, Change]]:
    """What to change in which tensor of which file. Where the original layout holds several layers in one tensor
    (OpenCLIP's q, k, v), all of them."""
    found: dict[Path, dict[str, list[Target]]] = {}
    names: dict[Path, list[tuple[TensorRef, str]]] = {}
    for target in targets:
        path, start = target.ref.path, target.ref.offset
        if path not in names:
            names[path] = [(ref, name) for name, ref in read_header(path)[0].items()]
        key = next(name for ref, name in names[path] if ref.offset <= start < ref.offset + ref.nbytes)
        found.setdefault(path, {}).setdefault(key, []).append(target)
    return {path: {key: _within(key, held) for key, held in keys.items()} for path, keys in found.items()}


def _within(key: str, targets: Sequence[Target]) -> Change:
    """The change of a stored tensor by what lies in it."""

    def change(tensor: Tensor, place: TensorRef) -> None:
        was_finite = bool(torch.isfinite(tensor).all())
        for target in targets:
            ref, start = target.ref, (target.ref.offset - place.offset) // place.dtype.itemsize
            region = tensor.view(-1)[start : start + ref.nbytes // place.dtype.itemsize].view(ref.shape)
            if ref.transposed:
                turned = region.T.contiguous()
                target.change(turned.view(target.shape))
                region.copy_(turned.T)
            else:
                target.change(region.view(target.shape))
        if was_finite and not torch.isfinite(tensor).all():
            word = dtype_name(place.dtype)
            raise LorasmithError(f"{place.path}: merged, {key} does not fit into {word}; nothing was written")

    return change


def _write(source: Path, target: Path, changes: Mapping[Path, Mapping[str, Change]], note: str) -> None:
    metadata = carried(read_header(source)[1], note) | {"format": "pt"}
    rewrite(source, target, changes.get(source, {}), metadata)


def _write_folder(
    source: Path, target: Path, changes: Mapping[Path, Mapping[str, Change]], used: set[Path], note: str
) -> list[str]:
    """The folder with the changed files. Other weights of the changed parts (`used` are the parts' own), and those at
    the top, would be the old ones."""
    written = {path.resolve(): path for path in changes}
    parts = {path.parent.resolve() for path in changes}
    left_out = []
    for file in sorted(p for p in source.rglob("*") if p.is_file()):
        inner = file.relative_to(source)
        if any(part.startswith(".") for part in inner.parts):
            continue
        place = target / inner
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.resolve() in written:
            _write(written[file.resolve()], place, changes, note)
        elif file.suffix in WEIGHTS and (len(inner.parts) == 1 or file.parent.resolve() in parts):
            if file.resolve() in used:
                shutil.copyfile(file, place)
            else:
                left_out.append(str(inner))
        else:
            shutil.copyfile(file, place)
    return [f"left out, since they hold the unmerged weights: {', '.join(left_out)}"] if left_out else []
