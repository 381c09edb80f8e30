"""How the words of a layer become a change of its weight: the formulas that readers share, written from their papers
and from what the readers were measured to compute."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Words = Mapping[str, Tensor]


def scale(words: Words, rank: int) -> float:
    """alpha / rank; 1 without alpha."""
    return float(words["alpha"]) / rank if "alpha" in words else 1.0


def lora(words: Words, shape: torch.Size) -> Tensor:
    up, down = words["lora_up.weight"], words["lora_down.weight"]
    if "lora_mid.weight" in words:
        mid = words["lora_mid.weight"]
        change = torch.einsum("om,mnkl,ni->oikl", up.flatten(1), mid, down.flatten(1))
    else:
        change = up.flatten(1) @ down.flatten(1)
    return change.reshape(shape) * scale(words, down.shape[0])


def loha(words: Words, shape: torch.Size) -> Tensor:
    halves = []
    for i in ("1", "2"):
        a, b = words[f"hada_w{i}_a"], words[f"hada_w{i}_b"]
        core = words.get(f"hada_t{i}")
        halves.append(a @ b if core is None else torch.einsum("ijkl,jr,ip->prkl", core, b, a))
    return (halves[0] * halves[1]).reshape(shape) * scale(words, words["hada_w1_b"].shape[0])


def lokr(words: Words, shape: torch.Size) -> Tensor:
    """alpha counts only where a factor is a product."""
    rank, first, second = None, words.get("lokr_w1"), words.get("lokr_w2")
    if first is None:
        first, rank = words["lokr_w1_a"] @ words["lokr_w1_b"], words["lokr_w1_b"].shape[0]
    if second is None:
        a, b = words["lokr_w2_a"], words["lokr_w2_b"]
        rank, core = b.shape[0], words.get("lokr_t2")
        second = a @ b if core is None else torch.einsum("ijkl,ip,jr->prkl", core, a, b)
        if core is None and len(shape) == 4:
            second = second.reshape(a.shape[0], -1, *shape[2:])
    if second.dim() == 4:
        first = first[:, :, None, None]
    whole = torch.kron(first.contiguous(), second.contiguous())
    return whole.reshape(shape) * (1.0 if rank is None else scale(words, rank))


def glora(words: Words, base: Tensor) -> Tensor:
    flat = base.flatten(1)
    a1, a2, b1, b2 = (words[f"{n}.weight"].flatten(1) for n in ("a1", "a2", "b1", "b2"))
    wide = base.flatten(2).transpose(1, 2) @ a1 @ a2 if base.dim() == 4 else flat @ a1 @ a2
    change = wide.transpose(1, 2).flatten(1) if base.dim() == 4 else wide
    return (change + b1 @ b2).reshape(base.shape) * scale(words, a2.shape[0])


def ia3(words: Words, base: Tensor) -> Tensor:
    w, on_input = words["weight"].flatten(), bool(words["on_input"])
    extra = [1] * (base.dim() - 2)
    return base * (w.reshape(1, -1, *extra) if on_input else w.reshape(-1, 1, *extra))


def cayley(blocks: Tensor, bound: float) -> Tensor:
    """Rotations (.., b, b) of skew matrices whose norm stays within `bound`; 0 is no bound."""
    skew = blocks - blocks.transpose(-1, -2)
    if bound > 0:
        norm = skew.norm()
        skew = skew * (bound / norm).clamp(max=1) if norm > 0 else skew
    eye = torch.eye(blocks.shape[-1])
    return (eye + skew) @ torch.linalg.inv(eye - skew)


def oft(words: Words, base: Tensor, *, bound: float, rescale: bool = True) -> Tensor:
    """The changed weight: each block of outputs, turned."""
    rotation = cayley(words["oft_blocks"], bound)
    split = base.reshape(rotation.shape[0], rotation.shape[1], -1)
    turned = torch.einsum("knm,kni->kmi", rotation, split).reshape(base.shape)
    return turned * words["rescale"] if rescale and "rescale" in words else turned


def boft(words: Words, base: Tensor, *, bound: float) -> Tensor:
    """The changed weight: stages of turned blocks, each over outputs twice as far apart."""
    stages = cayley(words["oft_blocks"], bound)
    size, found = stages.shape[-1], base
    for i, rotation in enumerate(stages):
        far = 2**i * (size // 2)
        mixed = found.unflatten(0, (-1, 2, far)).transpose(1, 2).flatten(0, 2).unflatten(0, (-1, size))
        turned = torch.einsum("bij,bj...->bi...", rotation, mixed).flatten(0, 1)
        found = turned.unflatten(0, (-1, far, 2)).transpose(1, 2).flatten(0, 2)
    return found * words["rescale"] if "rescale" in words else found


def by_inputs(weight: Tensor, magnitude: Tensor) -> Tensor:
    """DoRA as user interfaces have it: one norm per input, over outputs and kernel; the magnitude is broadcast."""
    dims = (0, *range(2, weight.dim()))
    return magnitude * weight / torch.linalg.vector_norm(weight, dim=dims, keepdim=True)
