"""The same change with other tensors: exact rewrites of one layer's tensors.

A layer's tensors are keyed by kohya's and LyCORIS' tensor names. Readers agree on plain LoRA only, so whatever is a
product of low rank is rewritten to that (`plain`); what is not, has the form of a full difference (`difference`), for
which the weight may be needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lorasmith.adapters.base import LayerSpec, kind_of
from lorasmith.core.errors import LorasmithError

LayerTensors = dict[str, Tensor]
"""One layer's tensors by tensor name (`lora_down.weight`, `alpha`)."""
LORA = frozenset({"lora_down.weight", "lora_up.weight", "alpha"})


def plain(tensors: Mapping[str, Tensor], shape: Sequence[int]) -> LayerTensors | None:
    """Plain LoRA tensors, in float32, that make the same change of a weight of `shape` exactly; None if there are none.

    Tucker LoCon keeps its rank; LoHa of rank r becomes r^2; LoKr the product of the ranks of its two matrices.
    """
    present = set(tensors)
    if present <= LORA and "lora_up.weight" in present:
        return dict(tensors)
    if present <= LORA | {"lora_mid.weight"}:
        return _from_tucker(tensors)
    if "dora_scale" in present:
        return None
    if "hada_w1_a" in present:
        return _from_loha(tensors, shape)
    if any(name.startswith("lokr_") for name in present):
        return _from_lokr(tensors, shape)
    return None


def without_core(tensors: Mapping[str, Tensor]) -> LayerTensors:
    """The same change of Tucker LoRA, with or without DoRA, in two factors of the same rank; others as they are."""
    return _from_tucker(tensors) if "lora_mid.weight" in tensors else dict(tensors)


def with_alpha(tensors: Mapping[str, Tensor], alpha: float) -> LayerTensors:
    """The same LoRA with another alpha: `lora_up` takes up the quotient."""
    up, old = tensors["lora_up.weight"].float(), alpha_of(tensors)
    changed = up if old == alpha else up * (old / alpha)
    return dict(tensors) | {"lora_up.weight": changed, "alpha": torch.tensor(float(alpha))}


def alpha_of(tensors: Mapping[str, Tensor]) -> float:
    """The alpha of LoRA tensors; absent, it is the rank."""
    return float(tensors["alpha"]) if "alpha" in tensors else float(tensors["lora_down.weight"].shape[0])


def difference(tensors: Mapping[str, Tensor], layer: LayerSpec, base: Tensor) -> LayerTensors:
    """`diff` (norms: `w_norm`) tensors with the same change of a layer whose weight is `base`."""
    kind = kind_of(tensors)
    if kind is None:
        raise LorasmithError(f"{layer.name}: tensors of no known adapter kind: {', '.join(sorted(tensors))}")
    adapter = kind().restore(layer, base, tensors)
    names = ("w_norm", "b_norm") if layer.kind == "norm" else ("diff", "diff_b")
    bias = adapter.bias_delta()
    found = {names[0]: adapter.delta(base.float()).detach()}
    return found if bias is None else found | {names[1]: bias.detach()}


def product(tensors: Mapping[str, Tensor], shape: Sequence[int]) -> LayerTensors | None:
    """`diff` tensors for changes that do not depend on the weight; None for others."""
    if {"diff", "diff_b", "w_norm", "b_norm"} & tensors.keys():
        return {name: t for name, t in tensors.items() if name != "alpha"}
    lora = plain(tensors, shape)
    if lora is None:
        return None
    scale = alpha_of(lora) / lora["lora_down.weight"].shape[0]
    change = lora["lora_up.weight"].float().flatten(1) @ lora["lora_down.weight"].float().flatten(1)
    return {"diff": (scale * change).reshape(tuple(shape))}


def _from_tucker(tensors: Mapping[str, Tensor]) -> LayerTensors:
    down, mid = tensors["lora_down.weight"].float(), tensors["lora_mid.weight"].float()
    merged = torch.einsum("mnhw,ni->mihw", mid, down.flatten(1))
    return {name: t for name, t in tensors.items() if name != "lora_mid.weight"} | {"lora_down.weight": merged}


def _from_loha(tensors: Mapping[str, Tensor], shape: Sequence[int]) -> LayerTensors:
    """(w1_a w1_b) o (w2_a w2_b) = sum over i, j of (w1_a_i o w2_a_j)(w1_b_i o w2_b_j)."""
    pairs = [_matrices(tensors, f"hada_w{n}", f"hada_t{n}") for n in (1, 2)]
    rank = pairs[0][1].shape[0]
    up = torch.einsum("oi,oj->oij", pairs[0][0], pairs[1][0]).flatten(1)
    down = torch.einsum("ix,jx->ijx", pairs[0][1], pairs[1][1]).flatten(0, 1)
    scale = float(tensors["alpha"]) / rank if "alpha" in tensors else 1.0
    return _lora(up * scale, down, shape)


def _from_lokr(tensors: Mapping[str, Tensor], shape: Sequence[int]) -> LayerTensors:
    """kron(U S V, A B) = kron(U S, A) kron(V, B)."""
    if "lokr_w1" in tensors:
        first = _svd(tensors["lokr_w1"].float())
    else:
        first = tensors["lokr_w1_a"].float(), tensors["lokr_w1_b"].float()
    second = (
        _svd(tensors["lokr_w2"].float().flatten(1))
        if "lokr_w2" in tensors
        else _matrices(tensors, "lokr_w2", "lokr_t2")
    )
    rank = next((tensors[w].shape[0] for w in ("lokr_w2_b", "lokr_w1_b") if w in tensors), None)
    scale = float(tensors["alpha"]) / rank if "alpha" in tensors and rank else 1.0
    up = _kron(first[0], second[0]) * scale
    return _lora(up, _kron(first[1], second[1]), shape)


def _kron(a: Tensor, b: Tensor) -> Tensor:
    """torch.kron, which fails at some strides."""
    return torch.einsum("ij,kl->ikjl", a, b).flatten(2).flatten(0, 1)


def _matrices(tensors: Mapping[str, Tensor], stem: str, core: str) -> tuple[Tensor, Tensor]:
    """a (out, rank) and b (rank, in * kernel), a Tucker core multiplied in."""
    a, b = tensors[f"{stem}_a"].float(), tensors[f"{stem}_b"].float()
    if core not in tensors:
        return a, b
    return a.T, torch.einsum("mnhw,ni->mihw", tensors[core].float(), b).flatten(1)


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors with as many ranks as the matrix has."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    kept = max(1, int((s > 1e-7 * s[0]).sum()))
    return (u[:, :kept] * s[:kept]).float(), v[:kept].float()


def _lora(up: Tensor, down: Tensor, shape: Sequence[int]) -> LayerTensors:
    """LoRA tensors with alpha = rank, both factors of the same size in each rank (so that fp16 holds them)."""
    high, low = down.norm(dim=1), up.norm(dim=0)
    sizes = torch.where((high == 0) | (low == 0), torch.ones_like(high), (high / low).sqrt())
    rank, ones = up.shape[1], [1] * len(shape[2:])
    down, up = (down / sizes[:, None]).reshape(rank, *shape[1:]), (up * sizes).reshape(shape[0], rank, *ones)
    return {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(float(rank))}
