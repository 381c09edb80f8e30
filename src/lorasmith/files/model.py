"""The layers of a model, their names in files, and the location of their weights. No weights are loaded."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorasmith.adapters.base import LayerSpec
from lorasmith.core.component_names import is_text_encoder
from lorasmith.core.errors import LorasmithError
from lorasmith.families.file_names import FamilyFileNames, FileNames, file_names_of
from lorasmith.families.place import Place
from lorasmith.families.reader import Reader, TensorRef
from lorasmith.families.resolve import find, with_parts
from lorasmith.families.source import Source
from lorasmith.moved_modules import renamed


@dataclass(frozen=True)
class ModelLayers:
    """A model's layers by name, and their names in files."""

    kind: str
    layers: Mapping[str, LayerSpec]
    names: FileNames
    source: Source | None = None
    """The base on disk; None for the published models of this kind, without weights."""

    @classmethod
    def published(cls, kind: str, widths: Collection[int] = ()) -> ModelLayers:
        """The layers that all published models of a kind (`sd1`, `flux` ...) have. `widths`: of the tensors of a file,
        where models of a kind differ in size."""
        family = file_names_of(kind)
        return cls._of(family, kind, family.published_layers(kind, widths), None)

    @classmethod
    def from_base(cls, base: str | Path, parts: Sequence[str] = ()) -> ModelLayers:
        """The layers of a base model on disk, by its configs. `parts`: files and folders with parts that a single file
        of Flux or SD3 lacks. Raises LorasmithError if there is no such model, or no part at one of them."""
        return cls.from_source(with_parts(find(base), parts))

    @classmethod
    def from_source(cls, source: Source) -> ModelLayers:
        """The layers of an opened base, without those of text encoders that it lacks."""
        family = file_names_of(source.kind)
        return cls._of(family, source.kind, family.layers_of(source), source)

    @classmethod
    def _of(cls, family: FamilyFileNames, kind: str, specs: Iterable[LayerSpec], source: Source | None) -> ModelLayers:
        layers = {spec.name: spec for spec in specs}
        return cls(kind, layers, family.names(kind, layers, source), source)

    of = from_base
    """The old name of `from_base`, until version 0.3."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of the weight by layer."""
        return {name: spec.shape for name, spec in self.layers.items()}

    def kohya_name(self, layer: str) -> str:
        return self.names.kohya_name(layer)

    def from_kohya(self, name: str) -> str | None:
        return self.names.from_kohya(name)

    def kohya_part(self, layer: str) -> Place | None:
        return self.names.kohya_part(layer)

    def kohya_parts(self, name: str) -> Mapping[str, Place]:
        return self.names.kohya_parts(name)

    def peft_name(self, layer: str) -> str:
        return self.names.peft_name(layer)

    def __str__(self) -> str:
        return f"{self.source.name} ({self.kind})" if self.source else f"the published {self.kind} models"


class BaseWeights:
    """The weights and biases of a base's layers, read one at a time. Use it as a context manager."""

    def __init__(self, model: ModelLayers) -> None:
        if model.source is None:
            raise LorasmithError("the weights of the base model are needed; name it with --base")
        self.model = model
        self._source = model.source
        self._refs: dict[str, dict[str, TensorRef]] = {}
        self._reader = Reader()

    def __enter__(self) -> BaseWeights:
        return self

    def __exit__(self, *exc: object) -> None:
        self._reader.__exit__()

    @cached_property
    def _parameter_names(self) -> dict[str, list[str]]:
        """The names of the layers' weights and biases, by component."""
        names: dict[str, list[str]] = {}
        for layer in self.model.layers:
            component, path = _split_layer_name(layer)
            names.setdefault(component, []).extend((f"{path}.weight", f"{path}.bias"))
        return names

    def component_refs(self, component: str) -> dict[str, TensorRef]:
        """The location of a component's tensors, by parameter name."""
        # reading the headers of a checkpoint takes a moment, so it is done once
        if component not in self._refs:
            self._refs[component] = self._source.resolve(component, self._parameter_names[component])
        return self._refs[component]

    def ref(self, layer: str, parameter: str = "weight") -> TensorRef | None:
        """The location of a layer's `weight` or `bias`; None if there is none."""
        component, path = _split_layer_name(layer)
        return self.component_refs(component).get(f"{path}.{parameter}")

    def require_ref(self, layer: str, parameter: str = "weight") -> TensorRef:
        """The location of a layer's `weight` or `bias`. Raises LorasmithError if it is missing or has another size."""
        ref = self.ref(layer, parameter)
        if ref is None:
            raise LorasmithError(f"{self._source.path}: has no {parameter} of {layer}; is the model complete?")
        # a stored shape may differ from the layer's, such as that of a linear stored as a 1x1 convolution
        shape = self.model.layers[layer].shape
        expected = shape if parameter == "weight" else shape[:1]
        if math.prod(ref.shape) != math.prod(expected):
            raise LorasmithError(
                f"{self._source.path}: {layer}.{parameter} is {list(ref.shape)}, expected {list(expected)}"
            )
        return ref

    def read(self, layer: str) -> Tensor:
        """A layer's weight, float32, in the shape of its layer."""
        return self._reader.read(self.require_ref(layer), torch.float32).view(self.model.layers[layer].shape)

    def read_ref(self, ref: TensorRef) -> Tensor:
        """A tensor in the dtype that it is stored in."""
        return self._reader.read(ref)


def components_of(layers: Iterable[str]) -> list[str]:
    """The components that these layers belong to, in order."""
    return list(dict.fromkeys(layer.split(".", 1)[0] for layer in layers))


def _split_layer_name(layer: str) -> tuple[str, str]:
    """Component, and module path as `Source.resolve` has it, for text encoders without `text_model.`."""
    component, _, path = layer.partition(".")
    return component, path.removeprefix("text_model.") if is_text_encoder(component) else path


def __getattr__(name: str) -> Any:
    """Old names, until version 0.3."""
    return renamed("files.model", name)
