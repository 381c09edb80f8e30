"""Mix-of-Show's own files (`edlora_model-latest.pth`): LoRA without alphas and layer-wise tokens, in a pickle.

This is the only pickle that Lorasmith opens, with torch's reader for tensors and plain values only. Mix-of-Show's alpha
multiplies the product directly (it is 1 in all their files and not saved), so the alpha here is the rank. Both of their
spellings are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.formats.lora_file import LoraFile
from lorasmith.formats.token_embeddings import METADATA_KEY, TokenEmbeddings

SUFFIX = ".pth"
_KEY_END = re.compile(r"(.*?)[._]lora[._](down|up)\.weight$")


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
