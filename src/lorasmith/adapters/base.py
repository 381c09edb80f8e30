"""What an adapter is: a trainable change of one frozen weight."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
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

    Parameters are float32; `words` maps the attribute names of what is saved to the words of kohya-like files
    (`{"down": "lora_down.weight", "up": "lora_up.weight"}`). At the start, every adapter leaves its layer as it is.
    """

    words: ClassVar[dict[str, str]] = {}
    additive: ClassVar[bool] = True
    """Whether the change does not depend on the weight that it is added to, and `branch` is there."""
    dropout: Dropouts

    def __init__(self, layer: LayerSpec) -> None:
        super().__init__()
        self.layer = layer
        self.dropout = Dropouts()

    def delta(self, base: Tensor | None = None) -> Tensor:
        """The change at strength 1, of the weight's shape, scale included. `base` is there for kinds that need it."""
        raise NotImplementedError(f"{type(self).__name__} has no additive form")

    def weight(self, base: Tensor, strength: float = 1.0) -> Tensor:
        """The changed weight, in float32."""
        base = base.float()
        return base + strength * self.delta(base)

    def branch(self, x: Tensor) -> Tensor:
        """What to add to the layer's output at strength 1, in x's dtype. Kinds with a cheaper way override this."""
        delta, spec = self.delta().to(x.dtype), self.layer
        if spec.kind == "linear":
            return F.linear(x, delta)
        return F.conv2d(x, delta, None, spec.stride, spec.padding, spec.dilation, spec.groups)

    @property
    def alpha(self) -> float:
        """The alpha that files store; consumers scale by alpha / rank."""
        raise NotImplementedError

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

    def skip(self) -> bool:
        """Training only: whether this adapter sits out this pass (p = `module`)."""
        return self.training and self.dropout.module > 0 and float(torch.rand(())) < self.dropout.module

    def tensors(self) -> dict[str, Tensor]:
        """What files hold, by their words, alpha included."""
        named = {word: getattr(self, name).detach() for name, word in self.words.items()}
        return named | {"alpha": torch.tensor(float(self.alpha))}


class LayerRule(Config):
    """What some layers have that the others have not."""

    layers: str
    """fnmatch pattern of layer names."""
    rank: int | None = Field(None, ge=1)
    alpha: float | None = Field(None, gt=0)
    lr: float = Field(1.0, gt=0)
    """Factor of the learning rate."""


class AdapterConfig(Component, root="adapter"):
    """The settings of an adapter kind: which layers, and how each is built."""

    signature: ClassVar[str] = ""
    """The file word whose presence tells this kind from the others."""

    layers: str | tuple[str, ...] = "attention-mlp"
    """A preset of the family, or fnmatch patterns of layer names; a pattern with `!` in front takes layers out."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    rank_dropout: float = Field(default=0.0, ge=0, lt=1)
    module_dropout: float = Field(default=0.0, ge=0, lt=1)
    overrides: tuple[LayerRule, ...] = ()
    """Other settings for some layers; the first rule that fits a layer counts."""

    @property
    def dropouts(self) -> Dropouts:
        return Dropouts(self.dropout, self.rank_dropout, self.module_dropout)

    def for_layer(self, name: str) -> tuple[Self, float]:
        """The settings of one layer, and the factor of its learning rate."""
        rule = next((r for r in self.overrides if fnmatchcase(name, r.layers)), None)
        if rule is None:
            return self, 1.0
        changes = {k: v for k in ("rank", "alpha") if (v := getattr(rule, k)) is not None and hasattr(self, k)}
        return self.model_copy(update=changes), rule.lr

    @abstractmethod
    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> Adapter | None:
        """A fresh adapter for a layer with weight `base`, or None if this kind does not fit such a layer."""

    @abstractmethod
    def restore(self, layer: LayerSpec, base: Tensor, tensors: dict[str, Tensor]) -> Adapter:
        """An adapter with the tensors of a file, keyed by file words (`lora_down.weight`, `alpha`)."""


def kind_of(words: Iterable[str]) -> type[AdapterConfig] | None:
    """The kind that a layer's file words belong to; the longest signature wins, or None if no kind claims them."""
    present = set(words)
    kinds = sorted(registered(AdapterConfig).values(), key=lambda kind: -len(kind.signature))
    return next((kind for kind in kinds if kind.signature in present), None)
