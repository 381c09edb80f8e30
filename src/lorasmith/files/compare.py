"""How far two LoRA files of one recipe are apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorasmith.formats.read_tensors import read_tensors

UP, DOWN, ALPHA = "lora_up.weight", "lora_down.weight", "alpha"


@dataclass(frozen=True)
class Comparison:
    """Two files, tensor by tensor and change by change."""

    identical: bool
    """Whether all tensors are equal, bit for bit."""
    cosine: float
    """The cosine between the changes of all weights as vectors, -1..1; of layers that are no plain LoRA, and of
    embeddings, between their tensors. NaN if one of them is zero."""
    relative: float
    """|second - first| / |first| of the same vectors."""
    max_difference: float
    """The largest difference of a number in the tensors that both files have."""
    missing: list[str] = field(default_factory=list)
    """Tensors that only one of the files has, or that differ in shape."""

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        values = asdict(self)
        return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}


def compare(first: Path, second: Path) -> Comparison:
    """Compare two files in kohya's or any other spelling that both share. Raises LorasmithError if one is damaged."""
    return compare_tensors(read_tensors(first)[0], read_tensors(second)[0])


def compare_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Comparison:
    """Compare the tensors of two files, by key."""
    shared = [key for key in first if key in second and first[key].shape == second[key].shape]
    missing = sorted({*first, *second} - set(shared))
    if not missing and all(same_bits(first[key], second[key]) for key in shared):
        return Comparison(identical=True, cosine=1.0, relative=0.0, max_difference=0.0)
    differences = [float((first[k].double() - second[k].double()).abs().max()) for k in shared if first[k].numel()]
    cosine, relative = compare_changes(first, second, dict.fromkeys(layer_of(key, first) for key in shared))
    return Comparison(False, cosine, relative, max(differences, default=0.0), missing)


def compare_changes(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], layers: Iterable[str]
) -> tuple[float, float]:
    """Cosine and relative distance of the changes of all layers as one vector; NaN where a vector is zero."""
    first_square = second_square = product = 0.0
    for layer in layers:
        a, b = factors(first, layer), factors(second, layer)
        first_square += inner_product(a, a)
        second_square += inner_product(b, b)
        product += inner_product(a, b)

    distance = math.sqrt(max(0.0, first_square + second_square - 2 * product))
    relative = distance / math.sqrt(first_square) if first_square > 0 else math.nan
    norms = math.sqrt(first_square * second_square)
    # rounding can bring the cosine of parallel vectors above 1
    return (min(1.0, product / norms) if norms > 0 else math.nan), relative


def layer_of(key: str, tensors: Mapping[str, Tensor]) -> str:
    """The layer of a tensor of a plain LoRA; the key itself of any other tensor."""
    layer = key.partition(".")[0]
    return layer if f"{layer}.{UP}" in tensors else key


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same dtype and numbers."""
    return first.dtype == second.dtype and torch.equal(first, second)


def factors(tensors: Mapping[str, Tensor], layer: str) -> tuple[Tensor, Tensor]:
    """A layer's change as up (out, r) and down (r, in), float64; of another tensor 1 and the vector (1, n)."""
    up, down = tensors.get(f"{layer}.{UP}"), tensors.get(f"{layer}.{DOWN}")
    if up is None or down is None:
        return torch.ones(1, 1, dtype=torch.float64), tensors[layer].double().flatten()[None]
    alpha = tensors.get(f"{layer}.{ALPHA}")
    scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
    return scale * up.double().flatten(1), down.double().flatten(1)


def inner_product(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """<up1 down1, up2 down2> without the products: the trace of (up1^T up2) (down2 down1^T)."""
    up = first[0].T @ second[0]
    down = first[1] @ second[1].T
    return float((up * down).sum())
