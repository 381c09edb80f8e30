"""The interface of a family's layers: where adapters may sit, and what files call those places."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar

from torch import nn

from lorasmith.families.place import Place


class LayerNames(ABC):
    """Layer names are the component and the module path: `unet.mid_block.attentions.0.proj_in`."""

    layer_presets: ClassVar[Mapping[str, tuple[str, ...]]]
    """Preset name to patterns (fnmatch on layer names): `attention`, `attention-mlp` (kohya's set: all linears and 1x1
    convolutions of the transformer blocks, feed-forward and projections too), `full` (these and the residual
    blocks')."""

    @abstractmethod
    def components(self) -> Mapping[str, nn.Module]:
        """The denoiser and the text encoders (loading them) by component name: where adapters may sit."""

    @abstractmethod
    def named_layers(self, components: Iterable[str], *, norms: bool = False) -> dict[str, tuple[nn.Module, str]]:
        """Layers that may carry adapters, by name: linears and convolutions (and norms), each as (parent, attribute).

        Layers of text encoders have the classic names (`te.text_model.encoder.layers.0.self_attn.q_proj`), whatever
        the installed version of transformers calls them.
        """

    @abstractmethod
    def kohya_name(self, layer: str) -> str:
        """A layer's name in kohya-style files."""

    @abstractmethod
    def from_kohya(self, name: str) -> str | None:
        """The layer with this name in kohya-style files, in any dialect. None if the model has no such layer."""

    def kohya_part(self, layer: str) -> Place | None:
        """Where kohya-style files have the layer, if not in a module of its own: its rows of a module of several
        layers (Flux: q, k and v are one), or rows in another order. None for a module of its own."""
        return None

    def kohya_parts(self, name: str) -> Mapping[str, Place]:
        """The layers in such a module of a kohya-style file, in the order of their rows; empty for other names."""
        return {}

    @abstractmethod
    def peft_name(self, layer: str) -> str:
        """A layer's name in peft-style files."""
