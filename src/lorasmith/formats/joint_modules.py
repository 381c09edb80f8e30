"""Modules of a file that hold several layers, such as q, k and v of Flux: their changes split into those of the layers,
and joined from them. Both are exact, or refused.

A tensor of a change either has the module's rows (`lora_up`), and each layer has its part of them, or it is shared by
all rows (`lora_down`). LoRAs that share `lora_down` are joined at their rank; others get a block of ranks each, with
zeros between the blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lorasmith.core.deferred_torch import torch
from lorasmith.core.errors import LorasmithError
from lorasmith.formats.base import LayerNames, ModulePart, Shapes
from lorasmith.formats.rewrite import LayerTensors, alpha_of, to_diff, to_plain_lora

if TYPE_CHECKING:
    from torch import Tensor

BY_ROWS = frozenset(
    (
        *("lora_up.weight", "diff", "diff_b", "w_norm", "b_norm", "b1.weight", "rescale"),
        *("hada_w1_a", "hada_w2_a", "lokr_w1", "lokr_w1_a", "oft_blocks"),
    )
)
"""Tensors whose first axis is that of the module's rows, or of blocks of rows."""
SHARED = frozenset(
    (
        *("lora_down.weight", "alpha", "on_input", "a1.weight", "a2.weight", "b2.weight"),
        *("hada_w1_b", "hada_w2_b", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
    )
)
"""Tensors that all rows have in common."""


class CannotSplitError(LorasmithError):
    """A change that cannot be divided by rows."""


def split_modules(
    modules: Mapping[str, LayerTensors], parts: Mapping[str, Mapping[str, ModulePart]]
) -> dict[str, LayerTensors]:
    """The changes of the layers in modules. `modules`: the tensors by module; `parts`: the layers of each. Raises
    LorasmithError for a change that cannot be divided."""
    layers: dict[str, LayerTensors] = {}
    for name, tensors in modules.items():
        places = list(parts[name].items())
        sizes = places[0][1].sizes
        try:
            changes = split(tensors, sizes)
            for layer, place in places:
                change = changes[place.index]
                layers[layer] = swap_halves(change) if place.halves_swapped else change
        except CannotSplitError as error:
            raise LorasmithError(f"{name}: {error}") from None
    return layers


def split(tensors: LayerTensors, sizes: Sequence[int]) -> list[LayerTensors]:
    """The change of each of the layers whose rows a module holds. `sizes`: their relative numbers of rows.

    Raises CannotSplitError for a change that depends on all rows at once.
    """
    if len(sizes) == 1:
        return [dict(tensors)]
    try:
        return _split_rows(tensors, sizes)
    except CannotSplitError:
        # blocks of rows that no layer begins with: the same change without blocks
        plain = _without_blocks(tensors)
        if plain is None:
            raise
        return _split_rows(plain, sizes)


def _swapped_or_none(tensors: LayerTensors) -> LayerTensors | None:
    try:
        return swap_halves(tensors)
    except CannotSplitError:
        return None


def swap_halves(tensors: LayerTensors) -> LayerTensors:
    """The change with the two halves of its rows exchanged."""
    first, second = split(tensors, (1, 1))
    swapped = _concatenate([second, first])
    assert swapped is not None
    return swapped


def join_layers(layers: Mapping[str, LayerTensors], names: LayerNames, shapes: Shapes) -> dict[str, LayerTensors]:
    """The changes by their names in a kohya-style file: layers that such files hold in one module are joined.

    Where a module has no exact form, its layers keep names of their own, which ComfyUI reads.
    """
    changes = join_modules(layers, names, shapes)
    return {names.kohya_name(name) if name in layers else name: tensors for name, tensors in changes.items()}


def join_modules(layers: Mapping[str, LayerTensors], names: LayerNames, shapes: Shapes) -> dict[str, LayerTensors]:
    """The changes of modules by the names of the modules, and of all other layers by the names of the layers."""
    changes: dict[str, LayerTensors] = {}
    modules: dict[str, dict[str, ModulePart]] = {}
    for layer, tensors in layers.items():
        part = names.kohya_part(layer)
        if part is None:
            changes[layer] = dict(tensors)
        else:
            modules.setdefault(part.module, {})[layer] = part
    for module, parts in modules.items():
        joint = _join_parts(layers, parts, shapes)
        if joint is None:
            changes |= {layer: dict(layers[layer]) for layer in parts}
        else:
            changes[module] = joint
    return changes


def _join_parts(
    layers: Mapping[str, LayerTensors], parts: Mapping[str, ModulePart], shapes: Shapes
) -> LayerTensors | None:
    """The change of one module by those of some of its layers; None if it has no exact form."""
    in_order = sorted(parts, key=lambda layer: parts[layer].index)
    first = parts[in_order[0]]
    changes: list[LayerTensors | None] = [None] * len(first.sizes)
    for layer in in_order:
        changes[parts[layer].index] = layers[layer]
    joint = join(changes, first.sizes, [shapes[layer] for layer in in_order])
    return _swapped_or_none(joint) if joint is not None and first.halves_swapped else joint


def join(
    changes: Sequence[LayerTensors | None], sizes: Sequence[int], shapes: Sequence[tuple[int, ...]]
) -> LayerTensors | None:
    """One change of a module from those of its layers (None: unchanged); None if there is no exact form at a sensible
    size. `shapes`: of the layers that are changed."""
    present = [change for change in changes if change is not None]
    if len(present) == len(changes):
        joint = _concatenate(present)
        if joint is not None:
            return joint
    if all("dora_scale" in change for change in present):
        return _join_dora(changes, sizes)
    if all("lora_up.weight" in change and "dora_scale" not in change for change in present):
        return _join_loras(changes, sizes, shapes)
    if all({"diff", "diff_b"} & change.keys() for change in present):
        return _join_differences(changes, sizes, shapes)
    return None


# --- splitting


def _split_rows(tensors: LayerTensors, sizes: Sequence[int]) -> list[LayerTensors]:
    parts: list[LayerTensors] = [{} for _ in sizes]
    for name, tensor in tensors.items():
        if _has_rows(name, tensor, tensors):
            pieces = _rows(name, tensor, sizes)
        elif name in SHARED or name == "weight":
            pieces = [tensor] * len(sizes)
        else:
            raise CannotSplitError(
                f"its {name} belongs to several layers at once and cannot be divided among them (q, k and v of an "
                "attention are layers of their own here)"
            )
        for part, piece in zip(parts, pieces, strict=True):
            part[name] = piece
    return parts


def _has_rows(name: str, tensor: Tensor, tensors: LayerTensors) -> bool:
    if name == "dora_scale":
        # along inputs the norm is that of all rows together
        return tensor.shape[0] > 1
    if name == "oft_blocks":
        # BOFT rotates across blocks, and a bound is one of all blocks together
        return tensor.dim() == 3 and float(tensors.get("alpha", 0)) == 0
    # IA3's factors, of the outputs or of the inputs
    return name in BY_ROWS or (name == "weight" and not bool(tensors.get("on_input", True)))


def _rows(name: str, tensor: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    total = sum(sizes)
    if tensor.shape[0] % total:
        raise CannotSplitError(f"its {name} {tuple(tensor.shape)} cannot be divided into {len(sizes)} layers")
    unit = tensor.shape[0] // total
    return [piece.contiguous() for piece in tensor.split([unit * size for size in sizes])]


def _without_blocks(tensors: LayerTensors) -> LayerTensors | None:
    """LoKr as LoRA, or as a full difference where that is smaller; None for other kinds."""
    if not any(name.startswith("lokr_") for name in tensors) or "dora_scale" in tensors:
        return None
    rows = _size(tensors, "lokr_w1", 0) * _size(tensors, "lokr_w2", 0)
    columns = _size(tensors, "lokr_w1", 1) * _size(tensors, "lokr_w2", 1)
    plain = to_plain_lora(tensors, (rows, columns))
    if plain is not None and plain["lora_down.weight"].shape[0] * (rows + columns) < rows * columns:
        return plain
    return to_diff(tensors, (rows, columns))


def _size(tensors: LayerTensors, stem: str, axis: int) -> int:
    whole = tensors.get(stem)
    factor = tensors[f"{stem}_{'ab'[axis]}"] if whole is None else whole
    return factor.shape[axis]


# --- joining


def _concatenate(parts: Sequence[LayerTensors]) -> LayerTensors | None:
    """The change of rows one after the other, if all else is equal; None if it is not."""
    first = parts[0]
    if any(part.keys() != first.keys() for part in parts):
        return None
    joint: LayerTensors = {}
    for name, tensor in first.items():
        pieces = [part[name] for part in parts]
        if _has_rows(name, tensor, first):
            if any(piece.shape[1:] != tensor.shape[1:] for piece in pieces):
                return None
            joint[name] = torch.cat(pieces)
        elif (name in SHARED or name == "weight") and all(torch.equal(piece, tensor) for piece in pieces):
            joint[name] = tensor
        else:
            return None
    return joint


def _join_loras(
    changes: Sequence[LayerTensors | None], sizes: Sequence[int], shapes: Sequence[tuple[int, ...]]
) -> LayerTensors | None:
    """A block of ranks for each LoRA, at the scale of the first one."""
    plain = _plain_loras(changes, shapes)
    if plain is None:
        return None
    unit = _unit(changes, sizes, shapes)
    present = [change for change in plain if change is not None]
    downs = [change["lora_down.weight"] for change in present]
    scale = next((_scale(change) for change in present if _scale(change)), 1.0)
    rank = sum(down.shape[0] for down in downs)
    up = downs[0].new_zeros(unit * sum(sizes), rank)
    row = column = 0
    for change, size in zip(plain, sizes, strict=True):
        if change is not None:
            block = _at_scale(change, scale)
            up[row : row + unit * size, column : column + block.shape[1]] = block
            column += block.shape[1]
        row += unit * size
    return {"lora_down.weight": torch.cat(downs), "lora_up.weight": up, "alpha": torch.tensor(float(scale * rank))}


def _plain_loras(
    changes: Sequence[LayerTensors | None], shapes: Sequence[tuple[int, ...]]
) -> list[LayerTensors | None] | None:
    """The changes as plain LoRA; None if one of them has no such form."""
    remaining = iter(shapes)
    plain: list[LayerTensors | None] = []
    for change in changes:
        lora = None if change is None else to_plain_lora(change, next(remaining))
        if change is not None and lora is None:
            return None
        plain.append(lora)
    return plain


def _scale(lora: LayerTensors) -> float:
    return alpha_of(lora) / lora["lora_down.weight"].shape[0]


def _at_scale(lora: LayerTensors, scale: float) -> Tensor:
    """`lora_up` for another alpha / rank."""
    up, own_scale = lora["lora_up.weight"], _scale(lora)
    # an equal scale must not touch the values, not even by a multiplication with 1
    return up if own_scale == scale else up.float() * (own_scale / scale)


def _join_dora(changes: Sequence[LayerTensors | None], sizes: Sequence[int]) -> LayerTensors | None:
    """DoRA along outputs, if all layers have it: each row has a norm of its own."""
    present = [change for change in changes if change is not None]
    if len(present) < len(changes) or not all(_is_dora_along_outputs(change) for change in present):
        return None
    factors: list[LayerTensors | None] = []
    for change in present:
        factors.append({name: tensor for name, tensor in change.items() if name != "dora_scale"})
    shapes = [(c["lora_up.weight"].shape[0], c["lora_down.weight"].shape[1]) for c in present]
    joint = _join_loras(factors, sizes, shapes)
    return None if joint is None else joint | {"dora_scale": torch.cat([c["dora_scale"] for c in present])}


def _is_dora_along_outputs(change: LayerTensors) -> bool:
    magnitude = change["dora_scale"]
    is_lora = {"lora_up.weight", "lora_down.weight"} <= change.keys()
    return is_lora and magnitude.shape[0] == magnitude.numel() > 1


def _join_differences(
    changes: Sequence[LayerTensors | None], sizes: Sequence[int], shapes: Sequence[tuple[int, ...]]
) -> LayerTensors:
    """Full differences, zero for the layers without one."""
    unit = _unit(changes, sizes, shapes)
    joint: LayerTensors = {}
    for name in ("diff", "diff_b"):
        pieces = [None if change is None else change.get(name) for change in changes]
        example = next((piece for piece in pieces if piece is not None), None)
        if example is None:
            continue
        rows = [unit * size for size in sizes]
        zeros = [example.new_zeros(count, *example.shape[1:]) for count in rows]
        joint[name] = torch.cat(
            [zero if piece is None else piece.reshape(zero.shape) for zero, piece in zip(zeros, pieces, strict=True)]
        )
    return joint


def _unit(changes: Sequence[LayerTensors | None], sizes: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> int:
    """The rows of a layer of relative size 1."""
    first = next(index for index, change in enumerate(changes) if change is not None)
    return shapes[0][0] // sizes[first]
