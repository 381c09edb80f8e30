"""What an adapter is: a trainable change of one frozen weight.

`Adapter` is the change of one layer, a torch module (adapter.py). `AdapterConfig` is the extension point of adapter
kinds: the settings, which build fresh adapters and restore those of files. Every other file of this folder is one kind,
or what several kinds share.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from lorasmith.adapters.layer_rule import LayerRule
from lorasmith.core.component_names import component_of
from lorasmith.core.registry import Component, registered
from lorasmith.moved_modules import carry_old_members

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lorasmith.adapters.adapter import Adapter, run_layer

__all__ = ["Adapter", "AdapterConfig", "Dropouts", "FileTensors", "LayerSpec", "kind_of", "run_layer"]

FileTensors: TypeAlias = "Mapping[str, Tensor]"
"""The tensors that a file has for one layer, by tensor name (`lora_down.weight`, `alpha`)."""


@dataclass(frozen=True)
class LayerSpec:
    """A layer that may carry adapters.

    `name`: component and module path, for example `unet.down_blocks.0.attentions.0.proj_in`; `shape`: of the weight,
    (out, in) or (out, in / groups, kh, kw), of norms (channels,).
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
        """The component that the layer belongs to: the denoiser or a text encoder."""
        return component_of(self.name)

    @property
    def kernel(self) -> tuple[int, ...]:
        """The size of a convolution's kernel, (kh, kw); empty for other layers."""
        return self.shape[2:]

    @property
    def takes_factors(self) -> bool:
        """Whether it is a linear layer or a convolution without groups, which most adapter kinds need."""
        return self.kind != "norm" and self.groups == 1


@dataclass(frozen=True)
class Dropouts:
    """Probabilities of dropping single neurons, whole ranks and whole adapters; in training only."""

    neuron: float = 0.0
    rank: float = 0.0
    module: float = 0.0


class AdapterConfig(Component, root="adapter", default="lora"):
    """The settings of an adapter kind: which layers carry adapters, and how each adapter is built."""

    signatures: ClassVar[tuple[str, ...]] = ()
    """Tensor names, each of which distinguishes files of this kind from files of other kinds."""
    reads: ClassVar[frozenset[str]] = frozenset()
    """All tensor names that `restore` understands."""
    writes: ClassVar[str] = ""
    """The kind whose tensor names its files have, if it is another one; the files are then read as that kind."""
    precedence: ClassVar[int] = 0
    """Kinds with a higher number are tried first; needed where a file also has the tensor names of another kind."""

    layers: str | tuple[str, ...] = "attention-mlp"
    """A preset of the family, or fnmatch patterns of layer names; a pattern with `!` in front takes layers out."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    rank_dropout: float = Field(default=0.0, ge=0, lt=1)
    module_dropout: float = Field(default=0.0, ge=0, lt=1)
    max_norm: float | None = Field(default=None, gt=0)
    """After each step, shrink any layer's change to this Frobenius norm (kohya's scale_weight_norms)."""
    norms: bool = False
    """Also train the norms among the layers, weights and biases, as kind `norm` does; they are saved in the same
    file."""
    overrides: tuple[LayerRule, ...] = ()
    """Other settings for some layers; the first rule that matches a layer applies."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        carry_old_members(cls, "adapters.base.AdapterConfig")

    @model_validator(mode="after")
    def _check_overrides(self) -> Self:
        for name in ("rank", "alpha"):
            is_overridden = any(getattr(rule, name) is not None for rule in self.overrides)
            if is_overridden and not hasattr(self, name):
                raise ValueError(f"overrides: this kind of adapter has no {name} that a rule could change")
        return self

    @property
    def on_norms(self) -> bool:
        """Whether norms can be chosen by `layers`; without `norms`, most kinds pass over them."""
        return self.norms

    @property
    def dropouts(self) -> Dropouts:
        """The three dropout probabilities."""
        return Dropouts(self.dropout, self.rank_dropout, self.module_dropout)

    def for_layer(self, name: str) -> tuple[Self, float]:
        """The settings of one layer, and the factor of its learning rate."""
        rule = next((rule for rule in self.overrides if fnmatchcase(name, rule.layers)), None)
        if rule is None:
            return self, 1.0
        changes: dict[str, Any] = {}
        for field in ("rank", "alpha"):
            value = getattr(rule, field)
            if value is not None and hasattr(self, field):
                changes[field] = value
                # a rule means all layers that it matches, so the settings for convolutions must not win over it
                if hasattr(self, f"conv_{field}"):
                    changes[f"conv_{field}"] = None
        if rule.module_dropout is not None:
            changes["module_dropout"] = rule.module_dropout
        return self.model_copy(update=changes), rule.lr

    def up_lr_of(self, component: str) -> float:
        """Factor of the learning rate of `Adapter.up_parameters` in a component (LoRA+)."""
        return 1.0

    def continue_from(self, adapter: Adapter) -> Adapter:
        """The adapter of a file, made ready to be trained further with these settings."""
        return adapter

    @classmethod
    def claims(cls, tensors: FileTensors) -> bool:
        """Whether one layer's tensors in a file are of this kind."""
        return any(name in tensors for name in cls.signatures)

    @classmethod
    def fits(cls, layer: LayerSpec, tensors: FileTensors) -> bool:
        """Whether one layer's tensors in a file are complete and change a weight of the layer's shape.

        Compares shapes only; nothing is computed.
        """
        alpha = tensors.get("alpha")
        if alpha is not None and alpha.numel() != 1:
            return False
        return all(tensor.numel() > 0 for tensor in tensors.values()) and cls.shapes_match(layer, tensors)

    @classmethod
    def shapes_match(cls, layer: LayerSpec, tensors: FileTensors) -> bool:
        """The rule of this kind for `fits`; a kind without one accepts everything."""
        return True

    @abstractmethod
    def build(self, layer: LayerSpec, base: Tensor, generator: torch.Generator) -> Adapter | None:
        """A fresh adapter for a layer with weight `base`, or None if this kind does not support such a layer."""

    @abstractmethod
    def restore(self, layer: LayerSpec, base: Tensor, tensors: FileTensors) -> Adapter:
        """An adapter with the tensors of a file, keyed by tensor name (`lora_down.weight`, `alpha`)."""


def kind_of(tensors: FileTensors) -> type[AdapterConfig] | None:
    """The kind that one layer's tensors in a file belong to, or None if no kind reads all of them."""
    for kind in sorted(registered(AdapterConfig).values(), key=lambda kind: -kind.precedence):
        if kind.claims(tensors):
            return kind if tensors.keys() <= kind.reads else None
    return None


def __getattr__(name: str) -> Any:
    """What adapter.py defines, imported when it is first used: it needs torch, and settings do not."""
    if name not in ("Adapter", "run_layer"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lorasmith.adapters import adapter

    return getattr(adapter, name)
