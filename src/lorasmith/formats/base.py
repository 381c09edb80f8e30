"""What a file format is: a grammar of names for the changes of layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from lorasmith.adapters.base import Adapter
from lorasmith.core.errors import LorasmithError
from lorasmith.core.registry import Component
from lorasmith.formats.rewrite import LayerTensors


class Names(Protocol):
    """What a model family calls its layers in files; families are such."""

    def kohya_name(self, layer: str) -> str:
        """A layer's name in kohya-style files."""
        ...

    def from_kohya(self, name: str) -> str | None:
        """The layer that a name of kohya-style files means, in any dialect; None if there is no such layer."""
        ...

    def peft_name(self, layer: str) -> str:
        """A layer's name in peft-style files."""
        ...


Shapes = Mapping[str, tuple[int, ...]]
"""Shape of the weight by layer."""


@dataclass(frozen=True)
class Encoded:
    """What goes into a file: tensors, and metadata that belong to the format."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


class Format(Component, root="format"):
    """A way to write the changes of layers, `{layer: {tensor name: tensor}}` with kohya's and LyCORIS' tensor names."""

    @abstractmethod
    def encode(self, layers: Mapping[str, LayerTensors], names: Names, shapes: Shapes) -> Encoded:
        """Tensors by their names in the file, float32. Raises LorasmithError for changes that the format has no tensors
        for, naming the layers and another format."""

    def words(self, vectors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors that new words have in such files, which most forms have no place for: none. `vectors`: by word and
        text encoder, (count, width)."""
        return {}

    def encode_adapters(
        self, adapters: Mapping[str, Adapter], names: Names, weight_of: Callable[[str], Tensor] | None = None
    ) -> Encoded:
        """The same of adapters by layer. `weight_of` gives the weight that a layer has in the base model, which some
        formats need for some kinds."""
        return self.encode(layer_tensors(adapters), names, {name: a.layer.shape for name, a in adapters.items()})


def layer_tensors(adapters: Mapping[str, Adapter]) -> dict[str, LayerTensors]:
    """The tensors of adapters by layer and tensor name, float32, on the CPU."""
    return {
        layer: {name: t.detach().float().cpu().contiguous() for name, t in adapter.tensors().items()}
        for layer, adapter in adapters.items()
    }


def refuse(layers: Iterable[str], form: str, why: str, remedy: str) -> LorasmithError:
    """The error for layers that a format cannot hold."""
    found = list(layers)
    return LorasmithError(
        f"{form} files cannot hold {len(found)} of the changes ({why}), for example of {found[0]}; {remedy}"
    )
