"""New words in our own files: exact, for all cross-attention layers at once.

Tensors `lorasmith.word.<i>.<part>` of shape (vectors, layers or 1, width), float32, by text encoder (`te`; SDXL `te1`,
`te2`); the metadata `lorasmith.words` has the words as a JSON list, in their order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lorasmith.concepts import Vocabulary
from lorasmith.core.errors import LorasmithError
from lorasmith.formats import embeddings
from lorasmith.formats.read import LoraFile, load

PREFIX = "lorasmith.word."
KEY = "lorasmith.words"

Words = dict[str, dict[str, Tensor]]
"""Word to its vectors (vectors, layers or 1, width) by text encoder."""


def encode(vocabulary: Vocabulary) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a vocabulary."""
    tensors = {
        f"{PREFIX}{i}.{part}": tensor
        for i, word in enumerate(values_of(vocabulary).values())
        for part, tensor in word.items()
    }
    return tensors, named(vocabulary)


def named(vocabulary: Vocabulary) -> dict[str, str]:
    """The metadata alone, for a LoRA whose words are in another file."""
    return {KEY: json.dumps([word.text for word in vocabulary.tokens])}


def renamed(metadata: Mapping[str, str], words: Iterable[str]) -> dict[str, str]:
    """The trigger phrase with the words as their embedding files are called, for a file that carries them so."""
    said = metadata.get("modelspec.trigger_phrase", "")
    for word in words:
        said = said.replace(word, file_name(word))
    return {"modelspec.trigger_phrase": said} if said else {}


def values_of(vocabulary: Vocabulary) -> Words:
    """The vectors of each word, on the CPU."""
    return {
        word.text: {part: p.detach().float().cpu().contiguous() for part, p in value.named_parameters()}
        for word, value in zip(vocabulary.tokens, vocabulary.values, strict=True)
    }


def decode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], source: str) -> Words:
    """The words of a file in our own form; none if it has none. Raises LorasmithError if they do not match."""
    found = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}
    if not found:
        return {}
    texts = word_list(metadata)
    words: Words = {text: {} for text in texts}
    for name, tensor in found.items():
        index, _, part = name.partition(".")
        if not index.isdigit() or int(index) >= len(texts) or tensor.dim() != 3:
            raise LorasmithError(
                f"{source}: {PREFIX}{name} belongs to none of its words ({', '.join(texts) or 'none'})"
            )
        words[texts[int(index)]][part] = tensor.float()
    return words


def word_list(metadata: Mapping[str, str]) -> list[str]:
    """The words that a file says it was trained with."""
    try:
        found: Any = json.loads(metadata.get(KEY, "[]"))
    except ValueError:
        return []
    return [str(word) for word in found] if isinstance(found, list) else []


def bundled(found: Mapping[str, Mapping[str, Tensor]], parts: tuple[str, ...]) -> Words:
    """Words of `bundle_emb` tensors, for a model with these text encoders."""
    return {word: deep(embeddings.decode(tensors, word), parts) for word, tensors in found.items()}


def beside(file: LoraFile) -> Words:
    """The words in our own form that a file holds, or else those of the exact file that training left beside it."""
    found = {word: dict(vectors) for word, vectors in file.words.items()}
    exact = file.path.with_name(f"{file.path.stem}.exact.safetensors")
    if set(word_list(file.metadata)) - set(found) and exact.is_file():
        found |= {word: dict(vectors) for word, vectors in load(exact).words.items()}
    return found


def deep(vectors: Mapping[str, Tensor], parts: tuple[str, ...]) -> dict[str, Tensor]:
    """(vectors, width) as (vectors, 1, width), by the text encoders of a model; what has layers stays."""
    renamed = {"te1": "te"} if parts == ("te",) else {"te": "te1"} if "te1" in parts else {}
    return {renamed.get(part, part): t if t.dim() == 3 else t[:, None] for part, t in vectors.items()}


def plain(words: Words) -> dict[str, dict[str, Tensor]]:
    """(vectors, width) of each word for files that know no layers: the mean over them, exact where they are shared."""
    return {word: {part: t.mean(1) for part, t in tensors.items()} for word, tensors in words.items()}


def cosines(words: Words) -> dict[str, list[float]]:
    """How near each layer's vectors are to the mean that stands for them in such files: by word, the cosine over all
    its vectors, in the order of the layers."""
    found = {}
    for word, parts in words.items():
        rows = torch.cat([t.transpose(0, 1).flatten(1) for t in parts.values()], 1)
        found[word] = torch.cosine_similarity(rows, rows.mean(0, keepdim=True)).tolist()
    return found


def apart(words: Words) -> str:
    """A warning of what the mean of layer-wise words leaves out; empty where it is exact."""
    found = {word: values for word, values in cosines(words).items() if len(values) > 1}
    if not found:
        return ""
    said = ", ".join(f"{word} {sum(values) / len(values):.2f}" for word, values in found.items())
    return (
        "the words have a vector for each layer, and embeddings only their mean, which can be far from them (cosine "
        f"{said}): programs that know one vector a word need what `lorasmith refit` makes of the exact file"
    )


def file_name(word: str) -> str:
    """A word as a file's name, which user interfaces take for the word: without characters that file systems lack."""
    return "".join(c for c in word if c not in '<>:"/\\|?*').strip() or "word"
