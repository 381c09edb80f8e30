"""A LoRA that contains its new tokens, as A1111 reads them: one file in place of a LoRA and its embedding files.

Only A1111 uses such tokens. Forge, ComfyUI and InvokeAI load the LoRA and ignore them; Forge refuses a file with more
than 12 tensors that it does not know, and diffusers refuses any. So training writes it as a further file beside the
others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from lorasmith.formats import embeddings
from lorasmith.formats.base import Encoded, Format, LayerNames, Shapes
from lorasmith.formats.kohya import make_portable, to_module_keys
from lorasmith.formats.rewrite import LayerTensors
from lorasmith.formats.token_embeddings import file_name

if TYPE_CHECKING:
    from torch import Tensor


class Bundle(Format):
    """The kohya format, with new tokens as `bundle_emb.<token>`. A token is called as its embedding file would be."""

    kind: Literal["bundle"] = "bundle"

    def encode(self, layers: Mapping[str, LayerTensors], names: LayerNames, shapes: Shapes) -> Encoded:
        return Encoded(to_module_keys(make_portable(layers), names, shapes))

    def encode_tokens(self, tokens: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        # A1111 knows a token by the name that its embedding file would have
        by_file_name = {file_name(token): vectors for token, vectors in tokens.items()}
        return embeddings.encode_bundle(by_file_name)
