"""The interface of a LoRA file format: how the changes of layers become named tensors of a file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from lorasmith.core.errors import LorasmithError
from lorasmith.core.registry import Component
from lorasmith.moved_modules import renamed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lorasmith.adapters.base import Adapter
    from lorasmith.formats.rewrite import LayerTensors
    from lorasmith.formats.token_embeddings import TokenEmbeddings


class ModulePart(Protocol):
    """A layer's part of a module of a kohya-style file: some of the module's rows, or all of them in another order."""

    @property
    def module(self) -> str:
        """The module's name in the file."""
        ...

    @property
    def index(self) -> int:
        """Which of the layers in the module it is."""
        ...

    @property
    def sizes(self) -> tuple[int, ...]:
        """The relative numbers of rows of the layers in the module, in their order."""
        ...

    @property
    def halves_swapped(self) -> bool:
        """Whether the file has the two halves of the rows in the other order."""
        ...


class LayerNames(Protocol):
    """The names that a model family gives its layers in files. Families implement this."""

    def kohya_name(self, layer: str) -> str:
        """A layer's name in kohya-style files that hold it in a module of its own."""
        ...

    def from_kohya(self, name: str) -> str | None:
        """The layer that a name of a kohya-style file stands for, in any dialect; None if there is no such layer."""
        ...

    def kohya_part(self, layer: str) -> ModulePart | None:
        """Where kohya-style files have the layer, if that is not a module like the layer (Flux: q, k and v are one
        module); None if it is."""
        ...

    def kohya_parts(self, name: str) -> Mapping[str, ModulePart]:
        """The layers that a module of a kohya-style file holds, in their order, with their parts; empty for a module
        that is one layer, and for unknown names."""
        ...

    def peft_name(self, layer: str) -> str:
        """A layer's name in peft-style files."""
        ...


Shapes = Mapping[str, tuple[int, ...]]
"""Shape of the weight by layer."""


@dataclass(frozen=True)
class Encoded:
    """The content of a file: its tensors, and the metadata that belong to the format."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


class Format(Component, root="format"):
    """A way to write the changes of layers, `{layer: {tensor name: tensor}}` with kohya's and LyCORIS' tensor names."""

    suffix: ClassVar[str] = ".safetensors"
    """Of the files in this format."""
    layerwise: ClassVar[bool] = False
    """Whether a file holds the vectors of a new token for each cross-attention layer, and not their mean."""

    @abstractmethod
    def encode(self, layers: Mapping[str, LayerTensors], names: LayerNames, shapes: Shapes) -> Encoded:
        """Tensors by their names in the file, float32.

        Raises LorasmithError for changes that the format cannot hold. The message names the layers and another format.
        """

    def encode_tokens(self, tokens: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of new tokens in such a file; none for most formats, which cannot hold tokens.

        `tokens`: vectors (count, width) by token and text encoder.
        """
        return {}

    def encode_layerwise_tokens(self, tokens: TokenEmbeddings) -> dict[str, Tensor]:
        """The tensors of new tokens whose vectors may differ from layer to layer. Most formats hold their mean.

        Raises LorasmithError if the format cannot hold them.
        """
        from lorasmith.formats.token_embeddings import mean_over_layers

        return self.encode_tokens(mean_over_layers(tokens))

    def write(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], dtype: torch.dtype) -> Path:
        """Write a file of this format. `tensors`: what `encode` and the encoding of tokens return."""
        from lorasmith.formats.write import write

        return write(path, tensors, metadata, dtype)

    def encode_adapters(
        self, adapters: Mapping[str, Adapter], names: LayerNames, weight_of: Callable[[str], Tensor] | None = None
    ) -> Encoded:
        """`encode` for adapters by layer. `weight_of` returns a layer's weight in the base model, which some formats
        need for some adapter kinds."""
        shapes = {layer: adapter.layer.shape for layer, adapter in adapters.items()}
        return self.encode(layer_tensors(adapters), names, shapes)


def layer_tensors(adapters: Mapping[str, Adapter]) -> dict[str, LayerTensors]:
    """The tensors of adapters by layer and tensor name, float32, on the CPU."""
    layers: dict[str, LayerTensors] = {}
    for layer, adapter in adapters.items():
        tensors = adapter.tensors().items()
        layers[layer] = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors}
    return layers


def unsupported_layers(layers: Iterable[str], form: str, reason: str, remedy: str) -> LorasmithError:
    """The error for layers whose changes a format cannot hold."""
    names = list(layers)
    return LorasmithError(
        f"{form} files cannot hold {len(names)} of the changes ({reason}), for example that of {names[0]}; {remedy}"
    )


def __getattr__(name: str) -> Any:
    """Old names, until version 0.3."""
    return renamed("formats.base", name)
