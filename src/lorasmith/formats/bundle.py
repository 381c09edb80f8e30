"""A LoRA that carries its new words along, as A1111 reads them: one file in place of a LoRA and its embeddings.

Only A1111 uses such words. Forge, ComfyUI and InvokeAI take the LoRA and leave them, Forge refuses a file with more
than 12 tensors that it does not know, and diffusers refuses any. So it is a further file, beside the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from lorasmith.formats import embeddings
from lorasmith.formats.base import Encoded, Format, Names, Shapes
from lorasmith.formats.kohya import named, settled
from lorasmith.formats.rewrite import LayerTensors
from lorasmith.formats.token_embeddings import file_name


class Bundle(Format):
    """kohya's form, with new words as `bundle_emb.<word>`; they are called as their embedding files are."""

    kind: Literal["bundle"] = "bundle"

    def encode(self, layers: Mapping[str, LayerTensors], names: Names, shapes: Shapes) -> Encoded:
        return Encoded(named(settled(layers), names.kohya_name))

    def words(self, vectors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return embeddings.bundle({file_name(word): parts for word, parts in vectors.items()})
