"""The T5 encoder (arXiv 1910.10683). transformers is imported when it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.core.errors import LorasmithError
from lorasmith.families.reader import TensorRef, fill
from lorasmith.families.source import Source
from lorasmith.families.stable_diffusion.source import part_title
from lorasmith.families.transformer_models.source import T5

_SHARED, _TIED = "shared.weight", "encoder.embed_tokens.weight"


def load_t5(source: Source, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The frozen encoder. Raises LorasmithError if any weight is missing or unknown.

    In float16 its activations overflow, so it is loaded in bfloat16 then.
    """
    dtype = torch.bfloat16 if dtype == torch.float16 else dtype
    model, refs = empty_t5(source)
    fill(model, refs, dtype, device, part_title(T5), source.where(T5))
    embeddings: Any = model
    embeddings.encoder.embed_tokens.weight = embeddings.shared.weight
    return model.requires_grad_(False).eval()


def empty_t5(source: Source) -> tuple[nn.Module, dict[str, TensorRef]]:
    """The encoder on the meta device, and where its weights are stored."""
    from transformers import T5Config, T5EncoderModel

    with torch.device("meta"):
        model = T5EncoderModel(T5Config.from_dict(source.config(T5)))
    refs = dict(source.raw(T5))
    # one table under two names, of which files have either or both
    table = refs.get(_SHARED) or refs.get(_TIED)
    if table is not None:
        refs |= {name: table for name in (_SHARED, _TIED) if name in model.state_dict()}
    refs = {name: ref for name, ref in refs.items() if name != _TIED or _TIED in model.state_dict()}
    return model, refs


def load_tokenizer(source: Source) -> Any:
    """Transformers' T5 tokenizer. Raises LorasmithError if it cannot be loaded."""
    from transformers import AutoTokenizer

    folder = source.tokenizer(T5)
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise LorasmithError(f"{folder}: the tokenizer cannot be loaded: {error}") from None


def encode(model: Any, tokenizer: Any, texts: Sequence[str], length: int, device: torch.device) -> Tensor:
    """States (B, length, width) of texts, padded or cut to `length` tokens. Padding is not masked, as SD3 and Flux were
    trained."""
    ids = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return model(ids["input_ids"].to(device))[0]
