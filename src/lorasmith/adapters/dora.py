"""DoRA: magnitude and direction of a weight apart (arXiv 2402.09353), over LoRA, LoHa or LoKr."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from lorasmith.adapters.base import Adapter, LayerSpec, kind_of
from lorasmith.adapters.loha import LoHa
from lorasmith.adapters.lokr import LoKr
from lorasmith.adapters.lora import LoRA

Axis = Literal["input", "output"]
OVER: dict[str, type[LoRA] | type[LoHa] | type[LoKr]] = {"lora": LoRA, "loha": LoHa, "lokr": LoKr}


class DoRAAdapter(Adapter):
    """W' = magnitude * V / norm(V), V = W + delta of `inner`.

    `magnitude`: (1, in[, 1, 1]), norms over outputs and kernel; or (out, 1[, 1, 1]), norms over the rest. The norm is
    taken as a constant in the backward pass (the paper's section 4.3).
    """

    additive: ClassVar[bool] = False

    def __init__(self, layer: LayerSpec, inner: Adapter, magnitude: Tensor) -> None:
        super().__init__(layer)
        self.inner = inner
        self.magnitude = nn.Parameter(magnitude.detach().float().clone())
        self.axis: Axis = axis_of(layer, magnitude)

    def delta(self, base: Tensor | None = None) -> Tensor:
        assert base is not None
        return self._recomposed(base.float() + self.inner.delta(base)) - base

    def passing_weight(self, base: Tensor, strength: float = 1.0) -> Tensor:
        """Dropouts act on the inner change, before the norm."""
        base, self.inner.dropout = base.float(), self.dropout
        return base + strength * (self._recomposed(base + self.inner.thin(self.inner.delta(base))) - base)

    def _recomposed(self, changed: Tensor) -> Tensor:
        return changed * (self.magnitude / norms(changed.detach(), self.axis))

    @property
    def alpha(self) -> float | None:
        return self.inner.alpha

    @property
    def rank(self) -> int | None:
        return self.inner.rank

    def limit_norm(self, base: Tensor) -> None:
        self.inner.max_norm = self.max_norm
        self.inner.limit_norm(base)

    def tensors(self) -> dict[str, Tensor]:
        return self.inner.tensors() | {"dora_scale": self.magnitude.detach()}


class DoRA(LoRA):
    """Low-rank adapters with a learned magnitude."""

    signatures: ClassVar[tuple[str, ...]] = ("dora_scale",)
    reads: ClassVar[frozenset[str]] = frozenset({"dora_scale"}).union(*(kind.reads for kind in OVER.values()))
    precedence: ClassVar[int] = 1
    kind: Literal["dora"] = "dora"  # type: ignore[assignment]
    over: Literal["lora", "loha", "lokr"] = "lora"
    axis: Axis = "input"
    """One magnitude per input (what A1111, Forge, ComfyUI and InvokeAI compute) or per output (the paper, peft)."""

    @model_validator(mode="after")
    def _has_down(self) -> Self:
        if self.init == "eva" and self.over != "lora":
            raise ValueError(f'init "eva" goes only with over "lora", not "{self.over}", which has no down')
        return self

    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> DoRAAdapter | None:  # type: ignore[override]
        shared = OVER[self.over].model_fields.keys() & DoRA.model_fields.keys() - {"kind"}
        inner = OVER[self.over](**{name: getattr(self, name) for name in shared}).build(layer, base, generator)
        return None if inner is None else DoRAAdapter(layer, inner, norms(base.float(), self.axis))

    def restore(self, layer: LayerSpec, base: Tensor, tensors: Mapping[str, Tensor]) -> DoRAAdapter:  # type: ignore[override]
        factors = {name: tensor for name, tensor in tensors.items() if name != "dora_scale"}
        kind = kind_of(factors)
        if kind is None:
            raise KeyError("dora_scale beside no factors")
        return DoRAAdapter(layer, kind().restore(layer, base, factors), shaped(layer, tensors["dora_scale"]))


def norms(weight: Tensor, axis: Axis) -> Tensor:
    """Frobenius norms per input (1, in[, 1, 1]) or per output (out, 1[, 1, 1])."""
    kept = 1 if axis == "input" else 0
    others = [d for d in range(weight.dim()) if d != kept]
    return torch.linalg.vector_norm(weight, dim=others, keepdim=True).clamp(min=1e-12)


def axis_of(layer: LayerSpec, magnitude: Tensor) -> Axis:
    """Which axis a magnitude runs along."""
    if tuple(magnitude.shape[:2]) == (layer.shape[0], 1) and magnitude.dim() == len(layer.shape):
        return "output"
    if tuple(magnitude.shape[:2]) == (1, layer.shape[1]) and magnitude.dim() == len(layer.shape):
        return "input"
    raise RuntimeError(f"dora_scale of shape {tuple(magnitude.shape)} fits neither axis of {layer.shape}")


def shaped(layer: LayerSpec, magnitude: Tensor) -> Tensor:
    """A magnitude with as many dimensions as the weight; peft's are (out,) or (1, out, 1, 1)."""
    ones = [1] * len(layer.shape[2:])
    if magnitude.dim() == 1:
        return magnitude.reshape(-1, 1, *ones)
    return magnitude.reshape(*magnitude.shape[:2], *ones)
