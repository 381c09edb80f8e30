"""Reading a LoRA file of any trainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.formats import mixofshow, token_embeddings
from lorasmith.formats.embeddings import BUNDLE_PREFIX
from lorasmith.formats.layer_checks import check_layers
from lorasmith.formats.lora_file import LoraFile
from lorasmith.formats.other_files import refuse_other_files
from lorasmith.formats.read_tensors import read_tensors
from lorasmith.formats.spellings import is_lora_key, to_kohya_spelling
from lorasmith.formats.token_embeddings import TokenEmbeddings


def load(path: Path) -> LoraFile:
    """A LoRA in any known spelling. Raises LorasmithError for a missing, damaged, pickled or non-finite file, one that
    contradicts itself, and one that is something else."""
    if path.suffix.lower() == mixofshow.SUFFIX and path.is_file():
        return mixofshow.load(path)
    try:
        return _load(path)
    except LorasmithError as error:
        # every message names the file, once
        message = str(error)
        raise LorasmithError(message if message.startswith(str(path)) else f"{path}: {message}") from None


def _load(path: Path) -> LoraFile:
    tensors, metadata = read_tensors(path, lambda keys: refuse_other_files(keys, is_lora_key))

    # new tokens, in Lorasmith's and A1111's format, are not part of the layers
    bundled: dict[str, Tensor] = {}
    layer_tensors: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if key.startswith(BUNDLE_PREFIX):
            bundled[key] = tensor
        elif not key.startswith(token_embeddings.TENSOR_PREFIX):
            layer_tensors[key] = tensor
    tokens = token_embeddings.decode(tensors, metadata, str(path))

    # everything below works on one spelling, and on layers that can be computed with
    converted = to_kohya_spelling(layer_tensors, metadata, path)
    checked = check_layers(converted.tensors)
    if checked.notes and not checked.tensors and not bundled and not tokens:
        raise LorasmithError(f"none of its layers has a change ({'; '.join(checked.notes)})")
    return LoraFile(
        path,
        checked.tensors,
        metadata,
        converted.spelling,
        _split_bundle(bundled),
        tokens,
        tuple(tensors),
        (*checked.notes, *converted.notes),
        checked.lone_alphas,
        checked.scalars,
    )


def load_token_embeddings(file: LoraFile) -> TokenEmbeddings:
    """The new tokens that a file holds in Lorasmith's format. If some that it names are missing, those of the exact
    file that training wrote beside it."""
    tokens = {token: dict(vectors) for token, vectors in file.token_embeddings.items()}
    # the exact file may be gone; what then is missing is for the caller to report
    missing = set(token_embeddings.token_names(file.metadata)) - set(tokens)
    exact_file = file.path.with_name(f"{file.path.stem}.exact.safetensors")
    if missing and exact_file.is_file():
        for token, vectors in load(exact_file).token_embeddings.items():
            tokens[token] = dict(vectors)
    return tokens


def _split_bundle(bundled: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """`bundle_emb.<token>.<part>` by token and part (`string_to_param.*`, `clip_l` ...)."""
    by_token: dict[str, dict[str, Tensor]] = {}
    for key, tensor in bundled.items():
        token, dot, part = key.removeprefix(BUNDLE_PREFIX).partition(".")
        if not token or not dot or not part:
            raise LorasmithError(f"{key}: a bundled token is named {BUNDLE_PREFIX}TOKEN.PART, with a token and a part")
        by_token.setdefault(token, {})[part] = tensor
    return by_token
