"""The layers of a model, their names in files, and where their weights lie; nothing is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from lorasmith.adapters.base import LayerSpec
from lorasmith.adapters.layer import spec_of
from lorasmith.core.component_names import is_text_encoder
from lorasmith.core.errors import LorasmithError
from lorasmith.families.reader import Reader, TensorRef
from lorasmith.families.resolve import find
from lorasmith.families.source import PARTS, Source
from lorasmith.families.stable_diffusion import layer_names
from lorasmith.families.stable_diffusion.unet import UNet
from lorasmith.families.stable_diffusion.unet_config import UNetConfig


@dataclass(frozen=True)
class Model:
    """Layers by name, and what files call them. `source` None: the published models of this kind, without weights."""

    kind: str
    layers: Mapping[str, LayerSpec]
    config: UNetConfig
    source: Source | None = None

    @classmethod
    def published(cls, kind: str) -> Model:
        """What all published models of a kind (`sd1`, `sd2`, `sdxl`) share."""
        return cls(kind, {spec.name: spec for spec in layer_names.layers(kind)}, layer_names.published_unet(kind))

    @classmethod
    def of(cls, base: str | Path) -> Model:
        """A base model on disk, by its configs. Raises LorasmithError if it is none."""
        source = find(base)
        with torch.device("meta"):
            unet = UNet(source.unet_config)
        specs = [s for name, module in unet.named_modules() if (s := spec_of(f"unet.{name}", module))]
        for part in _text_parts(source):
            specs += layer_names.text_layers(part, source.config(part))
        return cls(source.kind, {spec.name: spec for spec in specs}, source.unet_config, source)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of the weight by layer."""
        return {name: spec.shape for name, spec in self.layers.items()}

    def kohya_name(self, layer: str) -> str:
        return layer_names.kohya(self.kind, layer, self.config)

    def from_kohya(self, name: str) -> str | None:
        return layer_names.from_kohya(self.kind, name, self.layers, self.config)

    def peft_name(self, layer: str) -> str:
        return layer_names.peft_name(layer)

    def __str__(self) -> str:
        return f"{self.source.name} ({self.kind})" if self.source else f"the published {self.kind} models"


class Weights:
    """The weights and biases of a base's layers, read one at a time. Use as a context."""

    def __init__(self, model: Model) -> None:
        if model.source is None:
            raise LorasmithError("the weights of the base model are needed; name it with --base")
        self.model, self._source = model, model.source
        self._parts: dict[str, dict[str, TensorRef]] = {}
        self._reader = Reader()

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, *exc: object) -> None:
        self._reader.__exit__()

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for layer in self.model.layers:
            part, path = _path(layer)
            found.setdefault(part, []).extend(f"{path}.{leaf}" for leaf in ("weight", "bias"))
        return found

    def part(self, part: str) -> dict[str, TensorRef]:
        """The tensors of a component by parameter name."""
        if part not in self._parts:
            self._parts[part] = self._source.resolve(part, self._names[part])
        return self._parts[part]

    def ref(self, layer: str, leaf: str = "weight") -> TensorRef | None:
        """Where a layer's `weight` or `bias` lies; None if there is none."""
        part, path = _path(layer)
        return self.part(part).get(f"{path}.{leaf}")

    def place(self, layer: str, leaf: str = "weight") -> TensorRef:
        """The same; raises LorasmithError if it is not there or has another size."""
        ref, spec = self.ref(layer, leaf), self.model.layers[layer]
        if ref is None:
            raise LorasmithError(f"{self._source.path}: {layer} has no {leaf} there; is the model complete?")
        wanted = spec.shape if leaf == "weight" else spec.shape[:1]
        if math.prod(ref.shape) != math.prod(wanted):
            raise LorasmithError(f"{self._source.path}: {layer}.{leaf} is {list(ref.shape)}, expected {list(wanted)}")
        return ref

    def read(self, layer: str) -> Tensor:
        """A layer's weight, float32, in the shape of its layer."""
        return self._reader.read(self.place(layer), torch.float32).view(self.model.layers[layer].shape)

    def read_ref(self, ref: TensorRef) -> Tensor:
        """A tensor as it is stored."""
        return self._reader.read(ref)


def components(layers: Iterable[str]) -> list[str]:
    """The components that layers belong to, in order."""
    return list(dict.fromkeys(layer.split(".", 1)[0] for layer in layers))


def _path(layer: str) -> tuple[str, str]:
    part, _, path = layer.partition(".")
    return part, path.removeprefix("text_model.") if is_text_encoder(part) else path


def _text_parts(source: Source) -> list[str]:
    """The text encoders that this base has; some folders are a UNet alone."""
    found = []
    for part in PARTS[source.kind]:
        if is_text_encoder(part):
            try:
                source.raw(part)
            except LorasmithError:
                continue
            found.append(part)
    return found
