"""What an adapter is: a trainable change of one frozen weight."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from lorasmith.core.registry import Component, Config, registered


@dataclass(frozen=True)
class LayerSpec:
    """A layer that may carry adapters.

    `name`: component and module path, for example `unet.down_blocks.0.attentions.0.proj_in`; `shape`: of the weight,
    (out, in) or (out, in / groups, kh, kw).
    """

    name: str
    kind: Literal["linear", "conv", "norm"]
    shape: tuple[int, ...]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = False

    @property
    def component(self) -> str:
        """`unet`, `te`, `te1` or `te2`."""
        return self.name.split(".", 1)[0]


@dataclass(frozen=True)
class Dropouts:
    """Probabilities of leaving out single neurons, whole ranks, whole adapters; in training only."""

    neuron: float = 0.0
    rank: float = 0.0
    module: float = 0.0


class Adapter(nn.Module):
    """One layer's change. A subclass gives `delta` and, where cheaper, `branch`.

    Parameters are float32; `tensor_names` maps the attributes that are saved to the tensor names of kohya-like
    files (`{"down": "lora_down.weight", "up": "lora_up.weight"}`). At the start, every adapter leaves its layer as it
    is.
    At strength s a layer's weight is W + s (W' - W), for every kind: what all user interfaces do.
    """

    tensor_names: ClassVar[dict[str, str]] = {}
    additive: ClassVar[bool] = True
    """Whether the change does not depend on the weight that it is added to, so that `branch` is there."""
    factors: ClassVar[tuple[str, ...]] = ()
    """Attributes whose product the change is (absent ones are None)."""
    passes: ClassVar[int] = 1
    """How often `limit_norm` must shrink to get there; more than 1 where the change is not a product."""
    dropout: Dropouts
    max_norm: float | None = None
    """Bound of the Frobenius norm of the change; `limit_norm` keeps it."""
    late_rate: float = 1.0
    """Factor of the learning rate of the factors that start as zero."""
    still: tuple[str, ...] = ()
    """Attributes that are not trained, ever."""

    def __init__(self, layer: LayerSpec) -> None:
        super().__init__()
        self.layer = layer
        self.dropout = Dropouts()

    def delta(self, base: Tensor | None = None) -> Tensor:
        """The change at strength 1, of the weight's shape, scale included. `base` is there for kinds that need it."""
        raise NotImplementedError(f"{type(self).__name__} has no additive form")

    def bias_delta(self) -> Tensor | None:
        """The change of the layer's bias at strength 1, or None; `branch` includes it."""
        return None

    def weight(self, base: Tensor, strength: float = 1.0) -> Tensor:
        """The changed weight, in float32."""
        base = base.float()
        return base + strength * self.delta(base)

    def passing_weight(self, base: Tensor, strength: float = 1.0) -> Tensor:
        """The changed weight of this pass: with dropouts, in training."""
        base = base.float()
        return base + strength * self.thin(self.delta(base))

    def branch(self, x: Tensor) -> Tensor:
        """What to add to the layer's output at strength 1, in x's dtype. Kinds with a cheaper way override this."""
        bias = self.bias_delta()
        return operate(self.layer, x, self.thin(self.delta()).to(x.dtype), None if bias is None else bias.to(x.dtype))

    def onto(self, out: Tensor, x: Tensor, strength: float = 1.0) -> Tensor:
        """`out`, the layer's output for x, with the change on it. Kinds that can add in one pass override this."""
        change = self.branch(x)
        return out + (change if strength == 1 else change * strength)

    def begin(self, draw: float) -> None:
        """Before each training step, with a number in [0, 1) that is the same for all layers of the step."""

    @property
    def steady(self) -> bool:
        """Whether the passes of all steps are the same operations, as a CUDA graph needs it."""
        return self.dropout.module == 0

    def late(self) -> list[nn.Parameter]:
        """The factors that start as zero, which `late_rate` is for."""
        return []

    @property
    def alpha(self) -> float | None:
        """The alpha that files store, or None; consumers scale by alpha / rank."""
        return None

    @property
    def rank(self) -> int | None:
        """What alpha is divided by, if the kind has ranks."""
        return None

    def drop(self, h: Tensor) -> Tensor:
        """Training only: dropout of what lies between the factors, (..., rank) or (B, rank, H, W): single neurons
        with p = `neuron`, whole ranks of a sample with p = `rank`; what stays is scaled up."""
        if not self.training:
            return h
        if self.dropout.neuron:
            h = F.dropout(h, self.dropout.neuron)
        if self.dropout.rank:
            shape = (h.shape[0], h.shape[1], 1, 1) if h.dim() == 4 else (h.shape[0], *[1] * (h.dim() - 2), h.shape[-1])
            h = h * F.dropout(h.new_ones(shape), self.dropout.rank)
        return h

    def thin(self, delta: Tensor) -> Tensor:
        """Training only, for kinds with nothing between factors: dropout of single entries of the change with
        p = `neuron` and of whole rows (outputs) with p = `rank`; what stays is scaled up."""
        if not self.training:
            return delta
        if self.dropout.neuron:
            delta = F.dropout(delta, self.dropout.neuron)
        if self.dropout.rank:
            rows = delta.new_ones(delta.shape[0], *[1] * (delta.dim() - 1))
            delta = delta * F.dropout(rows, self.dropout.rank)
        return delta

    def skip(self) -> bool:
        """Training only: whether this adapter sits out this pass (p = `module`)."""
        return self.training and self.dropout.module > 0 and float(torch.rand(())) < self.dropout.module

    @torch.no_grad()
    def limit_norm(self, base: Tensor) -> None:
        """Shrink the factors until the norm of the change is at most `max_norm`; no host synchronisation."""
        if self.max_norm is None:
            return
        for _ in range(self.passes):
            norm = self.delta(base.float()).norm().clamp(min=1e-12)
            self.shrink((self.max_norm / norm).clamp(max=1.0))

    def shrink(self, ratio: Tensor) -> None:
        """Multiply the change by `ratio`, evenly over its factors."""
        present = [p for name in self.factors if (p := getattr(self, name)) is not None]
        for parameter in present:
            parameter.mul_(ratio ** (1 / len(present)))

    def tensors(self) -> dict[str, Tensor]:
        """What files hold, by tensor name, alpha included if there is one."""
        found = {
            tensor_name: t.detach()
            for name, tensor_name in self.tensor_names.items()
            if (t := getattr(self, name)) is not None
        }
        return found if self.alpha is None else found | {"alpha": torch.tensor(float(self.alpha))}


def operate(layer: LayerSpec, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear's or convolution's operation with another weight and bias."""
    if layer.kind == "linear":
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


class LayerRule(Config):
    """What some layers have that the others have not."""

    layers: str
    """fnmatch pattern of layer names."""
    rank: int | None = Field(default=None, ge=1)
    alpha: float | None = Field(default=None, gt=0)
    lr: float = Field(default=1.0, gt=0)
    """Factor of the learning rate."""
    module_dropout: float | None = Field(default=None, ge=0, lt=1)
    """Such as 0.2 on `unet.*.attn2.to_[kv]`: Mix-of-Show's dropping of keys and values."""


class AdapterConfig(Component, root="adapter", default="lora"):
    """The settings of an adapter kind: which layers, and how each is built."""

    signatures: ClassVar[tuple[str, ...]] = ()
    """Tensor names, each of which tells this kind from the others."""
    reads: ClassVar[frozenset[str]] = frozenset()
    """All tensor names that `restore` understands."""
    writes: ClassVar[str] = ""
    """The kind whose tensor names its files have, if it is another's; the files are then read as that kind."""
    precedence: ClassVar[int] = 0
    """Kinds that contain another kind's tensor names are asked first."""

    layers: str | tuple[str, ...] = "attention-mlp"
    """A preset of the family, or fnmatch patterns of layer names; a pattern with `!` in front takes layers out."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    rank_dropout: float = Field(default=0.0, ge=0, lt=1)
    module_dropout: float = Field(default=0.0, ge=0, lt=1)
    max_norm: float | None = Field(default=None, gt=0)
    """After each step, shrink any layer's change to this Frobenius norm (kohya's scale_weight_norms)."""
    norms: bool = False
    """Train the norms among the layers too, weights and biases, as kind `norm` does; they stand in the same file."""
    overrides: tuple[LayerRule, ...] = ()
    """Other settings for some layers; the first rule that fits a layer counts."""

    @model_validator(mode="after")
    def _rules_fit(self) -> Self:
        for name in ("rank", "alpha"):
            if not hasattr(self, name) and any(getattr(rule, name) is not None for rule in self.overrides):
                raise ValueError(f"overrides: this kind of adapter has no {name} that a rule could change")
        return self

    @property
    def on_norms(self) -> bool:
        """Whether norms are among the layers that are chosen from; without `norms`, most kinds pass over them."""
        return self.norms

    @property
    def dropouts(self) -> Dropouts:
        return Dropouts(self.dropout, self.rank_dropout, self.module_dropout)

    def for_layer(self, name: str) -> tuple[Self, float]:
        """The settings of one layer, and the factor of its learning rate."""
        rule = next((r for r in self.overrides if fnmatchcase(name, r.layers)), None)
        if rule is None:
            return self, 1.0
        changes = {k: v for k in ("rank", "alpha") if (v := getattr(rule, k)) is not None and hasattr(self, k)}
        changes |= {f"conv_{k}": None for k in changes if hasattr(self, f"conv_{k}")}
        changes |= {} if rule.module_dropout is None else {"module_dropout": rule.module_dropout}
        return self.model_copy(update=changes), rule.lr

    def late_rate(self, component: str) -> float:
        """Factor of the learning rate of the factors that start as zero, in `unet` or a text encoder."""
        return 1.0

    def adopt(self, adapter: Adapter) -> Adapter:
        """An adapter of a file, as it is to be trained further with these settings."""
        return adapter

    @classmethod
    def claims(cls, tensors: Mapping[str, Tensor]) -> bool:
        """Whether one layer's file tensors are of this kind."""
        return any(tensor_name in tensors for tensor_name in cls.signatures)

    @abstractmethod
    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> Adapter | None:
        """A fresh adapter for a layer with weight `base`, or None if this kind does not fit such a layer."""

    @abstractmethod
    def restore(self, layer: LayerSpec, base: Tensor, tensors: Mapping[str, Tensor]) -> Adapter:
        """An adapter with the tensors of a file, keyed by tensor name (`lora_down.weight`, `alpha`)."""


def kind_of(tensors: Mapping[str, Tensor]) -> type[AdapterConfig] | None:
    """The kind that one layer's file tensors belong to, or None if no kind claims all of them."""
    kinds = sorted(registered(AdapterConfig).values(), key=lambda kind: -kind.precedence)
    found = next((kind for kind in kinds if kind.claims(tensors)), None)
    return found if found is None or tensors.keys() <= found.reads else None
