"""Exact rewrites of one layer's tensors: the same change of the weight, expressed by other tensors.

A layer's tensors are keyed by kohya's and LyCORIS' tensor names. Programs agree on plain LoRA only, so every change
that is a product of low rank can be rewritten to plain LoRA (`to_plain_lora`). Any other change can be written as a
full difference (`to_diff`, `to_diff_with_base`), for which the base weight may be needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from lorasmith.adapters.base import LayerSpec, kind_of
from lorasmith.core.deferred_torch import torch
from lorasmith.core.errors import LorasmithError

if TYPE_CHECKING:
    from torch import Tensor

LayerTensors: TypeAlias = "dict[str, Tensor]"
"""One layer's tensors by tensor name (`lora_down.weight`, `alpha`)."""
PLAIN_LORA = frozenset({"lora_down.weight", "lora_up.weight", "alpha"})
RANK_TOLERANCE = 1e-7
"""Singular values below this share of the largest count as zero (float32 rounding)."""


def to_plain_lora(tensors: Mapping[str, Tensor], shape: Sequence[int]) -> LayerTensors | None:
    """Plain LoRA tensors, float32, that make exactly the same change of a weight of `shape`; None if there are none.

    Tucker LoCon keeps its rank; LoHa of rank r becomes rank r^2; LoKr gets the product of its two matrices' ranks.
    """
    names = set(tensors)
    if names <= PLAIN_LORA and "lora_up.weight" in names:
        return dict(tensors)
    # Tucker LoRA: the core is a further linear factor
    if names <= PLAIN_LORA | {"lora_mid.weight"}:
        return _merge_core_into_down(tensors)
    # DoRA rescales the whole weight, so its change is not of low rank
    if "dora_scale" in names:
        return None
    # the Hadamard and Kronecker products of two low-rank matrices are of low rank too
    if "hada_w1_a" in names:
        return _loha_to_lora(tensors, shape)
    if any(name.startswith("lokr_") for name in names):
        return _lokr_to_lora(tensors, shape)
    return None


def merge_tucker_core(tensors: Mapping[str, Tensor]) -> LayerTensors:
    """The same change of Tucker LoRA, with or without DoRA, in two factors of the same rank; other kinds unchanged."""
    return _merge_core_into_down(tensors) if "lora_mid.weight" in tensors else dict(tensors)


def with_alpha(tensors: Mapping[str, Tensor], alpha: float) -> LayerTensors:
    """The same LoRA with another alpha: `lora_up` is multiplied by old alpha / new alpha."""
    up = tensors["lora_up.weight"].float()
    old_alpha = alpha_of(tensors)
    # an equal alpha must not touch the values, not even by a multiplication with 1
    if old_alpha != alpha:
        up = up * (old_alpha / alpha)
    return dict(tensors) | {"lora_up.weight": up, "alpha": torch.tensor(float(alpha))}


def alpha_of(tensors: Mapping[str, Tensor]) -> float:
    """The alpha of LoRA tensors; the rank if there is no alpha."""
    if "alpha" in tensors:
        return float(tensors["alpha"])
    return float(tensors["lora_down.weight"].shape[0])


def to_diff(tensors: Mapping[str, Tensor], shape: Sequence[int]) -> LayerTensors | None:
    """`diff` tensors of a change that does not depend on the base weight; None for other changes."""
    # a difference already; alpha has no meaning for it
    if {"diff", "diff_b", "w_norm", "b_norm"} & tensors.keys():
        return {name: tensor for name, tensor in tensors.items() if name != "alpha"}
    lora = to_plain_lora(tensors, shape)
    if lora is None:
        return None
    up = lora["lora_up.weight"].float().flatten(1)
    down = lora["lora_down.weight"].float().flatten(1)
    scale = alpha_of(lora) / down.shape[0]
    return {"diff": (scale * (up @ down)).reshape(tuple(shape))}


def to_diff_with_base(tensors: Mapping[str, Tensor], layer: LayerSpec, base: Tensor) -> LayerTensors:
    """`diff` tensors (norms: `w_norm`) with the same change of a layer whose weight is `base`, for every kind."""
    kind = kind_of(tensors)
    if kind is None:
        raise LorasmithError(f"{layer.name}: no adapter kind has the tensors {', '.join(sorted(tensors))}")
    adapter = kind().restore(layer, base, tensors)
    weight_name, bias_name = ("w_norm", "b_norm") if layer.kind == "norm" else ("diff", "diff_b")
    differences = {weight_name: adapter.delta(base.float()).detach()}
    bias = adapter.bias_delta()
    if bias is not None:
        differences[bias_name] = bias.detach()
    return differences


def _merge_core_into_down(tensors: Mapping[str, Tensor]) -> LayerTensors:
    """Tucker LoRA in two factors: the core (rank, rank, kh, kw) is multiplied into `lora_down`."""
    down = tensors["lora_down.weight"].float()
    core = tensors["lora_mid.weight"].float()
    merged = {name: tensor for name, tensor in tensors.items() if name != "lora_mid.weight"}
    merged["lora_down.weight"] = torch.einsum("mnhw,ni->mihw", core, down.flatten(1))
    return merged


def _loha_to_lora(tensors: Mapping[str, Tensor], shape: Sequence[int]) -> LayerTensors:
    """(w1_a w1_b) o (w2_a w2_b) = sum over i, j of (w1_a_i o w2_a_j)(w1_b_i o w2_b_j)."""
    # one rank of the result for each pair (i, j) of ranks
    a1, b1 = _factors(tensors, "hada_w1", "hada_t1")
    a2, b2 = _factors(tensors, "hada_w2", "hada_t2")
    rank = b1.shape[0]
    up = torch.einsum("oi,oj->oij", a1, a2).flatten(1)
    down = torch.einsum("ix,jx->ijx", b1, b2).flatten(0, 1)
    scale = float(tensors["alpha"]) / rank if "alpha" in tensors else 1.0
    return _balanced_lora(up * scale, down, shape)


def _lokr_to_lora(tensors: Mapping[str, Tensor], shape: Sequence[int]) -> LayerTensors:
    """kron(U S V, A B) = kron(U S, A) kron(V, B)."""
    # each of the two Kronecker factors as a product, whether the file has it whole or factored
    if "lokr_w1" in tensors:
        a1, b1 = _svd_factors(tensors["lokr_w1"].float())
    else:
        a1, b1 = tensors["lokr_w1_a"].float(), tensors["lokr_w1_b"].float()
    if "lokr_w2" in tensors:
        a2, b2 = _svd_factors(tensors["lokr_w2"].float().flatten(1))
    else:
        a2, b2 = _factors(tensors, "lokr_w2", "lokr_t2")

    # LyCORIS scales by alpha / rank only where one of the factors is itself factored
    rank = None
    for name in ("lokr_w2_b", "lokr_w1_b"):
        if name in tensors:
            rank = tensors[name].shape[0]
            break
    scale = float(tensors["alpha"]) / rank if "alpha" in tensors and rank else 1.0
    return _balanced_lora(_kronecker(a1, a2) * scale, _kronecker(b1, b2), shape)


def _kronecker(a: Tensor, b: Tensor) -> Tensor:
    """torch.kron, which fails for some strides."""
    return torch.einsum("ij,kl->ikjl", a, b).flatten(2).flatten(0, 1)


def _factors(tensors: Mapping[str, Tensor], stem: str, core: str) -> tuple[Tensor, Tensor]:
    """a (out, rank) and b (rank, in * kernel), with a Tucker core multiplied into b."""
    a = tensors[f"{stem}_a"].float()
    b = tensors[f"{stem}_b"].float()
    if core not in tensors:
        return a, b
    return a.T, torch.einsum("mnhw,ni->mihw", tensors[core].float(), b).flatten(1)


def _svd_factors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors whose product is the matrix, with its numerical rank."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    rank = max(1, int((s > RANK_TOLERANCE * s[0]).sum()))
    return (u[:, :rank] * s[:rank]).float(), v[:rank].float()


def _balanced_lora(up: Tensor, down: Tensor, shape: Sequence[int]) -> LayerTensors:
    """LoRA tensors with alpha = rank. Per rank, both factors get the same norm, so that fp16 can hold them."""
    down_norm = down.norm(dim=1)
    up_norm = up.norm(dim=0)
    # a rank without a change stays zero, whatever its other factor
    is_zero = (down_norm == 0) | (up_norm == 0)
    ratio = torch.where(is_zero, torch.ones_like(down_norm), (down_norm / up_norm).sqrt())
    rank = up.shape[1]
    kernel_of_one = [1] * len(shape[2:])
    return {
        "lora_down.weight": (down / ratio[:, None]).reshape(rank, *shape[1:]),
        "lora_up.weight": (up * ratio).reshape(shape[0], rank, *kernel_of_one),
        "alpha": torch.tensor(float(rank)),
    }
