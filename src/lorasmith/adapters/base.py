"""What an adapter is: a trainable change of one frozen weight."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lorasmith.core.registry import Component


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


class Adapter(nn.Module):
    """One layer's change. A subclass gives `delta` and, where cheaper, `branch`.

    Parameters are float32; `words` maps the attribute names of what is saved to the words of kohya-like files
    (`{"down": "lora_down.weight", "up": "lora_up.weight"}`). At the start, every adapter leaves its layer as it is.
    """

    words: ClassVar[dict[str, str]] = {}

    def __init__(self, layer: LayerSpec) -> None:
        super().__init__()
        self.layer = layer

    def delta(self, base: Tensor | None = None) -> Tensor:
        """The change at strength 1, of the weight's shape, scale included. `base` is there for kinds that need it."""
        raise NotImplementedError(f"{type(self).__name__} has no additive form")

    def weight(self, base: Tensor, strength: float = 1.0) -> Tensor:
        """The changed weight, in float32."""
        base = base.float()
        return base + strength * self.delta(base)

    def branch(self, x: Tensor) -> Tensor | None:
        """What to add to the layer's output at strength 1 (same as applying `delta`), or None if there is no such
        short cut. Computed in x's dtype."""
        return None

    @property
    def alpha(self) -> float:
        """The alpha that files store; consumers scale by alpha / rank."""
        raise NotImplementedError


class AdapterConfig(Component, root="adapter"):
    """The settings of an adapter kind: which layers, and how each is built."""

    layers: str | tuple[str, ...] = "attention-mlp"
    """A preset of the family or fnmatch patterns of layer names."""

    @abstractmethod
    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> Adapter | None:
        """A fresh adapter for a layer with weight `base`, or None if this kind does not fit such a layer."""

    @abstractmethod
    def restore(self, layer: LayerSpec, base: Tensor, tensors: dict[str, Tensor]) -> Adapter:
        """An adapter with the tensors of a file, keyed by file words (`lora_down.weight`, `alpha`)."""
