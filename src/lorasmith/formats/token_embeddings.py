"""New tokens in Lorasmith's own files: exact, for all cross-attention layers at once.

Tensors `lorasmith.word.<i>.<component>` of shape (vectors, layers or 1, width), float32, by text encoder (`te`; SDXL
`te1`, `te2`). The metadata key `lorasmith.words` lists the tokens as JSON, in their order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from lorasmith.core.deferred_torch import torch
from lorasmith.core.errors import LorasmithError
from lorasmith.formats import embeddings
from lorasmith.formats.metadata_json import json_list

if TYPE_CHECKING:
    from torch import Tensor

    from lorasmith.concepts import Vocabulary

TENSOR_PREFIX = "lorasmith.word."
METADATA_KEY = "lorasmith.words"

TokenEmbeddings: TypeAlias = "dict[str, dict[str, Tensor]]"
"""Vectors (vectors, layers or 1, width) by new token and text encoder."""


def encode(vocabulary: Vocabulary) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a vocabulary."""
    tensors: dict[str, Tensor] = {}
    for index, vectors in enumerate(vocabulary_embeddings(vocabulary).values()):
        for component, tensor in vectors.items():
            tensors[f"{TENSOR_PREFIX}{index}.{component}"] = tensor
    return tensors, token_metadata(vocabulary)


def token_metadata(vocabulary: Vocabulary) -> dict[str, str]:
    """The metadata alone, for a LoRA whose tokens are in another file."""
    return {METADATA_KEY: json.dumps([token.text for token in vocabulary.tokens])}


def trigger_metadata(metadata: Mapping[str, str], tokens: Iterable[str]) -> dict[str, str]:
    """The trigger phrase with each token called as its embedding file is, for a file that contains the tokens under
    these names; empty if there is no trigger phrase."""
    phrase = metadata.get("modelspec.trigger_phrase", "")
    for token in tokens:
        phrase = phrase.replace(token, file_name(token))
    return {"modelspec.trigger_phrase": phrase} if phrase else {}


def vocabulary_embeddings(vocabulary: Vocabulary) -> TokenEmbeddings:
    """The vectors of each token of a vocabulary, float32, on the CPU."""
    by_token: TokenEmbeddings = {}
    for token, value in zip(vocabulary.tokens, vocabulary.values, strict=True):
        parameters = value.named_parameters()
        by_token[token.text] = {name: p.detach().float().cpu().contiguous() for name, p in parameters}
    return by_token


def decode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], source: str) -> TokenEmbeddings:
    """The new tokens among a file's tensors; empty if there are none. Raises LorasmithError if tensors and metadata do
    not match."""
    # tensors are numbered, and the metadata list the tokens in the same order
    token_tensors = {key: tensor for key, tensor in tensors.items() if key.startswith(TENSOR_PREFIX)}
    if not token_tensors:
        return {}
    names = token_names(metadata)
    by_token: TokenEmbeddings = {name: {} for name in names}
    for key, tensor in token_tensors.items():
        index, _, component = key.removeprefix(TENSOR_PREFIX).partition(".")
        if not index.isdigit() or int(index) >= len(names) or tensor.dim() != 3:
            raise LorasmithError(f"{source}: {key} belongs to none of its new tokens ({', '.join(names) or 'none'})")
        by_token[names[int(index)]][component] = tensor.float()
    return by_token


def token_names(metadata: Mapping[str, str]) -> list[str]:
    """The new tokens that a file was trained with, according to its metadata."""
    return [str(name) for name in json_list(metadata, METADATA_KEY)]


def decode_bundled(bundled: Mapping[str, Mapping[str, Tensor]], components: tuple[str, ...]) -> TokenEmbeddings:
    """New tokens of `bundle_emb` tensors, for a model with these text encoders."""
    by_token: TokenEmbeddings = {}
    for token, tensors in bundled.items():
        by_token[token] = with_layer_axis(embeddings.decode(tensors, token), components)
    return by_token


def with_layer_axis(vectors: Mapping[str, Tensor], components: tuple[str, ...]) -> dict[str, Tensor]:
    """(vectors, width) as (vectors, 1, width), by the text encoders of a model. Layer-wise vectors are unchanged."""
    # a file for the other number of text encoders calls the first one differently
    new_names: dict[str, str] = {}
    if components == ("te",):
        new_names = {"te1": "te"}
    elif "te1" in components:
        new_names = {"te": "te1"}
    by_component: dict[str, Tensor] = {}
    for component, tensor in vectors.items():
        by_component[new_names.get(component, component)] = tensor if tensor.dim() == 3 else tensor[:, None]
    return by_component


def mean_over_layers(tokens: TokenEmbeddings) -> dict[str, dict[str, Tensor]]:
    """(vectors, width) of each token, for files without layers: the mean over them, exact where they are shared."""
    means: dict[str, dict[str, Tensor]] = {}
    for token, vectors in tokens.items():
        means[token] = {component: tensor.mean(1) for component, tensor in vectors.items()}
    return means


def layer_cosines(tokens: TokenEmbeddings) -> dict[str, list[float]]:
    """How close each layer's vectors are to the mean over layers that embedding files hold: by token, the cosine over
    all its vectors, in the order of the layers."""
    cosines: dict[str, list[float]] = {}
    for token, vectors in tokens.items():
        # one row for each layer: all vectors of all text encoders, one after the other
        rows = torch.cat([tensor.transpose(0, 1).flatten(1) for tensor in vectors.values()], 1)
        cosines[token] = torch.cosine_similarity(rows, rows.mean(0, keepdim=True)).tolist()
    return cosines


def averaging_warning(tokens: TokenEmbeddings) -> str:
    """A warning about what the mean of layer-wise tokens loses; empty where it is exact."""
    # tokens whose vectors all layers share are averaged without a loss
    mean_cosines: list[str] = []
    for token, cosines in layer_cosines(tokens).items():
        if len(cosines) > 1:
            mean_cosines.append(f"{token} {sum(cosines) / len(cosines):.2f}")
    if not mean_cosines:
        return ""
    return (
        "the new tokens have a vector for each layer, and embedding files hold only their mean, which can be far from "
        f"them (cosine {', '.join(mean_cosines)}): for programs with one vector per token, use what "
        "`lorasmith refit` makes of the exact file"
    )


def file_name(token: str) -> str:
    """A token as a file name, without the characters that file systems do not allow. User interfaces use the file name
    as the token."""
    return "".join(c for c in token if c not in '<>:"/\\|?*').strip() or "word"
