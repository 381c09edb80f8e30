"""Mix-of-Show's own files (`edlora_model-latest.pth`): LoRA without alphas and layer-wise tokens, in a pickle.

`{"params": {"new_concept_embedding": {token: (16, width)}, "text_encoder": {key: tensor}, "unet": {key: tensor}}}`,
where a key is a layer's path in diffusers' models followed by `.lora_down.weight` or `.lora_up.weight`.

This is the only pickle that Lorasmith opens, with torch's reader for tensors and plain values only. Mix-of-Show's alpha
multiplies the product directly (it is 1 in all their files and not saved), so the alpha here is the rank. Both of their
spellings are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import atomic_path
from lorasmith.formats.base import Encoded, Format, LayerNames, Shapes, unsupported_layers
from lorasmith.formats.lora_file import LoraFile
from lorasmith.formats.rewrite import LayerTensors, to_plain_lora, with_alpha
from lorasmith.formats.token_embeddings import METADATA_KEY, TokenEmbeddings
from lorasmith.formats.write import convert_dtype

SUFFIX = ".pth"
LAYERS = 16
"""Cross-attention layers of SD 1.x, the only models that Mix-of-Show has."""
READ_LAYERS = re.compile(
    r"unet\..*\.(?:to_[qkv]|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out)"
    r"|te\..*\.(?:[qkv]_proj|out_proj|fc[12])"
)
"""Layers whose changes Mix-of-Show's code reads. It passes over others in silence."""
TOKENS = "new_concept_embedding"
COMPONENTS = ("text_encoder", "unet")
_KEY_END = re.compile(r"(.*?)[._]lora[._](down|up)\.weight$")


class MixOfShow(Format):
    """What Mix-of-Show's own code reads: plain LoRA of SD 1.x, and new tokens with a vector for each layer."""

    kind: Literal["mixofshow"] = "mixofshow"
    suffix: ClassVar[str] = SUFFIX
    layerwise: ClassVar[bool] = True
    layers: Literal[1, 16] = LAYERS
    """Vectors of each new token: one for each cross-attention layer (ED-LoRA), or a shared one (its plain LoRA)."""

    def encode(self, layers: Mapping[str, LayerTensors], names: LayerNames, shapes: Shapes) -> Encoded:
        tensors: dict[str, Tensor] = {}
        unsupported: list[str] = []
        for layer, changes in layers.items():
            plain = to_plain_lora(changes, shapes[layer]) if READ_LAYERS.fullmatch(layer) else None
            if plain is None:
                unsupported.append(layer)
                continue
            # Mix-of-Show multiplies the product by 1, as others do where alpha is the rank.
            plain = with_alpha(plain, float(plain["lora_down.weight"].shape[0]))
            for factor in ("lora_down.weight", "lora_up.weight"):
                tensors[f"{names.peft_name(layer)}.{factor}"] = plain[factor]
        if unsupported:
            raise unsupported_layers(
                unsupported,
                "Mix-of-Show's",
                "it reads plain LoRA of the attentions, their projections and the feed-forward layers of SD 1.x",
                'use "kohya", or train only those layers',
            )
        return Encoded(tensors)

    def encode_tokens(self, tokens: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return self.encode_layerwise_tokens(
            {token: {name: tensor[:, None] for name, tensor in vectors.items()} for token, vectors in tokens.items()}
        )

    def encode_layerwise_tokens(self, tokens: TokenEmbeddings) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for token, vectors in tokens.items():
            values = vectors.get("te")
            if values is None or values.shape[0] != 1 or values.shape[1] not in (1, self.layers):
                shapes = {name: tuple(value.shape) for name, value in vectors.items()}
                raise LorasmithError(
                    f"Mix-of-Show's files hold one vector of SD 1.x for each of {self.layers} layers, and the new "
                    f"token {token} has {shapes} (vectors, layers, width)"
                )
            # A vector that all layers share is repeated for each.
            tensors[f"{TOKENS}.{token}"] = values[0].expand(self.layers, -1).contiguous()
        return tensors

    def write(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], dtype: torch.dtype) -> Path:
        """The file has no place for metadata."""
        params: dict[str, dict[str, Tensor]] = {part: {} for part in (TOKENS, *COMPONENTS)}
        for key, tensor in convert_dtype(path, tensors, dtype).items():
            part, _, name = key.partition(".")
            params[part][name] = tensor
        with atomic_path(path) as temporary:
            torch.save({"params": params}, temporary)
        return path


def load(path: Path) -> LoraFile:
    """A file's layers under kohya's keys, and its new tokens. Raises LorasmithError if it is not of Mix-of-Show."""
    content = _open_pickle(path)
    tensors: dict[str, Tensor] = {}
    tokens: TokenEmbeddings = {}
    try:
        tensors = _layer_tensors(content)
        for token, vectors in (content.get("new_concept_embedding") or {}).items():
            tokens[str(token)] = {"te": _add_vector_axis(vectors)}
    except (AttributeError, TypeError, ValueError):
        tensors, tokens = {}, {}
    if not tensors and not tokens:
        raise LorasmithError(
            f"{path}: not a file of Mix-of-Show, which are the only .pth files that are read; others may run code"
        )
    non_finite = [key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if non_finite:
        raise LorasmithError(f"{path}: holds numbers that are not finite, for example in {non_finite[0]}")
    metadata = {METADATA_KEY: json.dumps(list(tokens))} if tokens else {}
    return LoraFile(path, tensors, metadata, "Mix-of-Show", {}, tokens, tuple(tensors))


def fused_tokens(path: Path, table: Tensor) -> TokenEmbeddings:
    """The new tokens of a whole fused model, from its `new_concept_cfg.json`: each (1, layers, width).

    `table`: the text encoder's token embedding (tokens, width), which contains their rows. Raises LorasmithError if the
    file does not match it.
    """
    try:
        concepts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        tokens: TokenEmbeddings = {}
        for token, concept in concepts.items():
            rows = table[torch.tensor(concept["concept_token_ids"])]
            tokens[token] = {"te": rows.detach().float().cpu()[None]}
        return tokens
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise LorasmithError(
            f"{path}: not the token list of a fused model of Mix-of-Show, or not that of this model"
        ) from None


def _open_pickle(path: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler's exception for forbidden content is not exported
        raise LorasmithError(
            f"{path}: holds more than tensors, or is damaged; it is not opened ({type(error).__name__})"
        ) from None
    # the state can be nested under "params"
    if isinstance(content, dict):
        content = content.get("params", content)
    return content if isinstance(content, dict) else {}


def _layer_tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The layers' tensors under kohya's keys. Raises ValueError for a key that is not a LoRA factor's."""
    tensors: dict[str, Tensor] = {}
    for component, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_")):
        for key, tensor in (content.get(component) or {}).items():
            match = _KEY_END.match(key)
            if match is None:
                raise ValueError(key)
            path, factor = match[1], match[2]
            # one of the two spellings leaves out the top module
            if component == "text_encoder" and not path.startswith("text_model."):
                path = f"text_model.{path}"
            flat_name = prefix + path.replace(".", "_")
            tensors[f"{flat_name}.lora_{factor}.weight"] = tensor.float()
            # alpha = rank, so that alpha / rank is the 1 that Mix-of-Show multiplies by
            if factor == "down":
                tensors[f"{flat_name}.alpha"] = torch.tensor(float(tensor.shape[0]))
    return tensors


def _add_vector_axis(tensor: Tensor) -> Tensor:
    """(layers, width) as (1, layers, width)."""
    if tensor.dim() != 2:
        raise ValueError("a token must have (layers, width) vectors")
    return tensor.detach().float()[None]
