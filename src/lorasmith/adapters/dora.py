"""DoRA: magnitude and direction of a weight apart (arXiv 2402.09353), over LoRA, LoHa or LoKr."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch declares no types for some of its methods

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from lorasmith.adapters.adapter import batch_key_of
from lorasmith.adapters.base import Adapter, AdapterConfig, FileTensors, LayerSpec, kind_of, run_layer
from lorasmith.adapters.loha import LoHa
from lorasmith.adapters.lokr import LoKr
from lorasmith.adapters.lora import LoRA

Axis = Literal["input", "output"]
INNER_KINDS: dict[str, type[LoRA] | type[LoHa] | type[LoKr]] = {"lora": LoRA, "loha": LoHa, "lokr": LoKr}


class DoRAAdapter(Adapter):
    """W' = magnitude * V / norm(V), V = W + delta of `inner`.

    `magnitude`: (1, in[, 1, 1]), norms over outputs and kernel; or (out, 1[, 1, 1]), norms over the rest. The norm is
    treated as a constant in the backward pass (section 4.3 of the paper).
    """

    additive = False

    def __init__(self, layer: LayerSpec, inner: Adapter, magnitude: Tensor) -> None:
        super().__init__(layer)
        self.inner = inner
        self.magnitude = nn.Parameter(magnitude.detach().float().clone())
        axis = axis_of(layer, magnitude)
        if axis is None:
            raise ValueError(f"a magnitude of shape {tuple(magnitude.shape)} fits neither axis of {layer.shape}")
        self.axis: Axis = axis

    def delta(self, base: Tensor | None = None) -> Tensor:
        assert base is not None
        return self._with_magnitude(base.float() + self.inner.delta(base)) - base

    def forward_weight(self, base: Tensor, strength: float = 1.0) -> Tensor:
        """The changed weight of this pass. Dropouts act on the inner change, before the norm."""
        base = base.float()
        self.inner.dropout = self.dropout
        inner_delta = self.inner.dropout_delta(self.inner.delta(base))
        return base + strength * (self._with_magnitude(base + inner_delta) - base)

    def _with_magnitude(self, changed: Tensor) -> Tensor:
        """V scaled to the learned magnitude."""
        return changed * (self.magnitude / norms(changed.detach(), self.axis))

    def changes_output(self, positions: int) -> bool:
        # a second product with the weight pays where the output has far fewer numbers than the weight
        few = 4 * positions <= math.prod(self.layer.shape[1:])
        return few and self.inner.additive and not self.drops_entries

    def output_change(self, x: Tensor, out: Tensor, base: Tensor) -> Tensor:
        """(W' - W) x, without a gradient of the whole weight. With c = magnitude / norm(V) and D the inner change:

        (c - 1) W x + c D x for magnitudes of outputs, W ((c - 1) x) + D (c x) for those of inputs.
        """
        self.inner.dropout = self.dropout
        with torch.no_grad():
            norm = norms(base.float() + self.inner.delta(base), self.axis)
        # along the channels of images (B, channels, H, W), or the last dimension of tokens
        shape = (-1, 1, 1) if self.layer.kind == "conv" else (-1,)
        scale = (self.magnitude / norm).view(shape)
        # c is near 1, so c - 1 is rounded to the dtype of x by itself
        small, scale = (scale - 1).to(x.dtype), scale.to(x.dtype)
        if self.axis == "output":
            return small * out + scale * self.inner.branch(x)
        return run_layer(self.layer, small * x, base.to(x.dtype), None) + self.inner.branch(scale * x)

    def batch_key(self) -> Hashable | None:
        # its dropouts act on the inner change
        inner = None if self.drops_entries else batch_key_of(self.inner)
        return None if inner is None else (type(self.inner), inner, self.axis)

    def deltas(self, parameters: Mapping[str, Tensor], bases: Sequence[Tensor]) -> Tensor:
        weights = torch.stack(list(bases)).float()
        summed = 1 if self.axis == "input" else 2
        inner = {name.removeprefix("inner."): parameter for name, parameter in parameters.items()}
        factors = self.inner.factors_of(inner)
        if factors is None:
            inner_change = self.inner.deltas(inner, bases)
            norm = torch.linalg.vector_norm((weights + inner_change).detach(), dim=summed, keepdim=True)
            scale = parameters["magnitude"] / norm.clamp(min=1e-12)
            return weights * (scale - 1) + inner_change * scale
        up, down = factors
        scale = parameters["magnitude"] / norms_with_factors(weights, up.detach(), down.detach(), summed)
        # c (W + up down) - W, with the scale c in the smaller of the two factors' sides
        up, down = (up, down * scale) if self.axis == "input" else (up * scale, down)
        return torch.baddbmm(weights * (scale - 1), up, down)

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
        return {**self.inner.tensors(), "dora_scale": self.magnitude.detach()}


class DoRA(LoRA):
    """Low-rank adapters with a learned magnitude."""

    signatures = ("dora_scale",)
    reads = LoRA.reads | LoHa.reads | LoKr.reads | {"dora_scale"}
    precedence = 1
    kind: Literal["dora"] = "dora"  # type: ignore[assignment]
    over: Literal["lora", "loha", "lokr"] = "lora"
    axis: Axis = "input"
    """One magnitude per input (what A1111, Forge, ComfyUI and InvokeAI compute) or per output (the paper, peft)."""

    @model_validator(mode="after")
    def _check_inner_kind(self) -> Self:
        if self.init == "eva" and self.over != "lora":
            raise ValueError(f'init "eva" requires over "lora", not "{self.over}", which has no down')
        return self

    def build(  # type: ignore[override]
        self, layer: LayerSpec, base: Tensor, generator: torch.Generator
    ) -> DoRAAdapter | None:
        inner_kind = INNER_KINDS[self.over]
        shared_fields = inner_kind.model_fields.keys() & DoRA.model_fields.keys() - {"kind"}
        settings = {name: getattr(self, name) for name in shared_fields}
        inner = inner_kind(**settings).build(layer, base, generator)
        return None if inner is None else DoRAAdapter(layer, inner, norms(base.float(), self.axis))

    @classmethod
    def shapes_match(cls, layer: LayerSpec, tensors: FileTensors) -> bool:
        inner_kind, inner_tensors = split_inner(tensors)
        magnitude = tensors.get("dora_scale")
        if (
            inner_kind is None
            or magnitude is None
            or magnitude.dim() == 0
            or magnitude.numel() != max(magnitude.shape[:2])
        ):
            return False
        return inner_kind.shapes_match(layer, inner_tensors) and axis_of(layer, as_column(layer, magnitude)) is not None

    def restore(  # type: ignore[override]
        self, layer: LayerSpec, base: Tensor, tensors: FileTensors
    ) -> DoRAAdapter:
        inner_kind, inner_tensors = split_inner(tensors)
        if inner_kind is None:
            raise KeyError("dora_scale without the factors of LoRA, LoHa or LoKr")
        inner = inner_kind().restore(layer, base, inner_tensors)
        return DoRAAdapter(layer, inner, as_column(layer, tensors["dora_scale"]))


def split_inner(tensors: FileTensors) -> tuple[type[AdapterConfig] | None, dict[str, Tensor]]:
    """The kind of the inner adapter in a file, None if there is none, and its tensors."""
    inner_tensors = {name: tensor for name, tensor in tensors.items() if name != "dora_scale"}
    return kind_of(inner_tensors), inner_tensors


def norms(weight: Tensor, axis: Axis) -> Tensor:
    """Frobenius norms per input (1, in[, 1, 1]) or per output (out, 1[, 1, 1])."""
    kept_dim = 1 if axis == "input" else 0
    other_dims = [dim for dim in range(weight.dim()) if dim != kept_dim]
    # on CPUs faster than `vector_norm`, which walks down the columns
    norm = weight.square().sum(dim=other_dims, keepdim=True).sqrt()
    return norm.clamp(min=1e-12)


def norms_with_factors(weights: Tensor, up: Tensor, down: Tensor, summed: int) -> Tensor:
    """The norms of W + up down of several layers, over outputs (`summed` 1) or inputs (2), without that matrix.

    |W + U D|^2 = |W|^2 + 2 <W, U D> + |U D|^2, where the last two terms need products with the factors only.
    """
    squares = torch.linalg.vector_norm(weights, dim=summed, keepdim=True).square()
    if summed == 1:
        both = 2 * (up.mT @ weights) + (up.mT @ up) @ down
        squares = squares + (both * down).sum(1, keepdim=True)
    else:
        both = 2 * (weights @ down.mT) + up @ (down @ down.mT)
        squares = squares + (both * up).sum(2, keepdim=True)
    return squares.clamp(min=1e-24).sqrt()


def axis_of(layer: LayerSpec, magnitude: Tensor) -> Axis | None:
    """Which axis of a layer's weight a magnitude runs along; None if it fits neither."""
    if magnitude.dim() != len(layer.shape) or len(layer.shape) < 2:
        return None
    sizes = tuple(magnitude.shape[:2])
    if sizes == (layer.shape[0], 1):
        return "output"
    return "input" if sizes == (1, layer.shape[1]) else None


def as_column(layer: LayerSpec, magnitude: Tensor) -> Tensor:
    """A magnitude with as many dimensions as the weight; those of peft are (out,) or (1, out, 1, 1)."""
    ones = [1] * len(layer.kernel)
    if magnitude.dim() == 1:
        return magnitude.reshape(-1, 1, *ones)
    return magnitude.reshape(*magnitude.shape[:2], *ones)
