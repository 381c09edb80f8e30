"""Full differences: the widest lossless form for kinds of full rank. A1111, Forge, ComfyUI and InvokeAI read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

from lorasmith.adapters.base import Adapter
from lorasmith.core.errors import LorasmithError
from lorasmith.formats.base import Encoded, Format, Names, Shapes, layer_tensors
from lorasmith.formats.kohya import named
from lorasmith.formats.rewrite import LayerTensors, difference, product


class Diff(Format):
    """`diff` (norms: `w_norm`, `b_norm`) of each layer: as large as the layers themselves."""

    kind: Literal["diff"] = "diff"

    def encode(self, layers: Mapping[str, LayerTensors], names: Names, shapes: Shapes) -> Encoded:
        found: dict[str, LayerTensors] = {}
        for layer, tensors in layers.items():
            change = product(tensors, shapes[layer])
            if change is None:
                raise LorasmithError(
                    f"diff files need the base model for changes like that of {layer}, which depend on its weights"
                )
            found[layer] = change
        return Encoded(named(found, names.kohya_name))

    def encode_adapters(
        self, adapters: Mapping[str, Adapter], names: Names, weight_of: Callable[[str], Tensor] | None = None
    ) -> Encoded:
        if weight_of is None:
            return super().encode_adapters(adapters, names)
        layers = layer_tensors(adapters)
        found = {name: difference(layers[name], a.layer, weight_of(name).cpu()) for name, a in adapters.items()}
        return Encoded(named(found, names.kohya_name))
