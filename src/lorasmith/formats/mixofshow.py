"""Mix-of-Show's own files (`edlora_model-latest.pth`): LoRA without alphas and layer-wise words, in a pickle.

The one pickle that we open, with torch's reader for tensors and plain values only. Their alpha multiplies the product
as it is (it is 1 in all their files and not saved), so ours is the rank. Both of their spellings are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.formats.read import LoraFile
from lorasmith.formats.token_embeddings import KEY

SUFFIX = ".pth"
_LEAF = re.compile(r"(.*?)[._]lora[._](down|up)\.weight$")


def load(path: Path) -> LoraFile:
    """A file's layers in kohya's names, and its words. Raises LorasmithError if it is none of Mix-of-Show's."""
    table = _opened(path)
    try:
        tensors = dict(_layers(table))
        words = {str(w): {"te": _matrix(t)} for w, t in (table.get("new_concept_embedding") or {}).items()}
    except (AttributeError, TypeError, ValueError):
        tensors, words = {}, {}
    if not tensors and not words:
        raise LorasmithError(
            f"{path}: not a file of Mix-of-Show, the only .pth files that are read; others may run code"
        )
    bad = [n for n, t in tensors.items() if not torch.isfinite(t).all()]
    if bad:
        raise LorasmithError(f"{path}: holds numbers that are not finite, for example in {bad[0]}")
    metadata = {KEY: json.dumps(list(words))} if words else {}
    return LoraFile(path, tensors, metadata, "Mix-of-Show", {}, words, tuple(tensors))


def fused_words(path: Path, table: Tensor) -> dict[str, dict[str, Tensor]]:
    """The words of a whole fused model, from its `new_concept_cfg.json`: each (1, layers, width).

    `table`: the text encoder's own embedding (tokens, width), among whose rows they are. Raises LorasmithError.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        rows = {word: torch.tensor(of["concept_token_ids"]) for word, of in found.items()}
        return {word: {"te": table[ids].detach().float().cpu()[None]} for word, ids in rows.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise LorasmithError(f"{path}: not the list of words of a fused model of Mix-of-Show that fits it") from None


def _opened(path: Path) -> Mapping[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler's refusals are of no exported class
        raise LorasmithError(
            f"{path}: holds more than tensors, or is damaged; it is not opened ({type(error).__name__})"
        ) from None
    found = found.get("params", found) if isinstance(found, dict) else {}
    return found if isinstance(found, dict) else {}


def _layers(table: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for part, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_")):
        for name, tensor in (table.get(part) or {}).items():
            match = _LEAF.match(name)
            if match is None:
                raise ValueError(name)
            path = match[1] if part == "unet" or match[1].startswith("text_model.") else f"text_model.{match[1]}"
            flat = prefix + path.replace(".", "_")
            yield f"{flat}.lora_{match[2]}.weight", tensor.float()
            if match[2] == "down":
                yield f"{flat}.alpha", torch.tensor(float(tensor.shape[0]))


def _matrix(tensor: Tensor) -> Tensor:
    """(layers, width) as (1, layers, width)."""
    if tensor.dim() != 2:
        raise ValueError("a word has (layers, width) vectors")
    return tensor.detach().float()[None]
