"""Full differences: the lossless format for changes of full rank. A1111, Forge, ComfyUI and InvokeAI read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from lorasmith.core.errors import LorasmithError
from lorasmith.formats.base import Encoded, Format, LayerNames, Shapes, layer_tensors
from lorasmith.formats.kohya import to_module_keys
from lorasmith.formats.rewrite import LayerTensors, to_diff, to_diff_with_base

if TYPE_CHECKING:
    from torch import Tensor

    from lorasmith.adapters.base import Adapter


class Diff(Format):
    """`diff` (norms: `w_norm`, `b_norm`) of each layer: as large as the layers themselves."""

    kind: Literal["diff"] = "diff"

    def encode(self, layers: Mapping[str, LayerTensors], names: LayerNames, shapes: Shapes) -> Encoded:
        differences: dict[str, LayerTensors] = {}
        for layer, tensors in layers.items():
            difference = to_diff(tensors, shapes[layer])
            if difference is None:
                raise LorasmithError(
                    f"diff files need the base model for changes like that of {layer}, which depend on its weights"
                )
            differences[layer] = difference
        return Encoded(to_module_keys(differences, names, shapes))

    def encode_adapters(
        self, adapters: Mapping[str, Adapter], names: LayerNames, weight_of: Callable[[str], Tensor] | None = None
    ) -> Encoded:
        # without weights, only changes that do not depend on them can be written
        if weight_of is None:
            return super().encode_adapters(adapters, names)
        differences: dict[str, LayerTensors] = {}
        for layer, tensors in layer_tensors(adapters).items():
            differences[layer] = to_diff_with_base(tensors, adapters[layer].layer, weight_of(layer).cpu())
        shapes = {layer: adapter.layer.shape for layer, adapter in adapters.items()}
        return Encoded(to_module_keys(differences, names, shapes))
