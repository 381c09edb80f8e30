"""CLIP text encoders and their tokens. Transformers is imported when the first encoder or tokenizer is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.concepts import Vocabulary
from lorasmith.concepts.vocabulary import ExtendedEmbedding, NewToken
from lorasmith.core.errors import LorasmithError
from lorasmith.families.reader import fill
from lorasmith.families.stable_diffusion.source import StableDiffusionSource, part_title

WINDOW = 77
"""Tokens of one window, with the marks of beginning and end."""


def load_text_encoder(source: StableDiffusionSource, part: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A frozen text encoder: transformers' CLIPTextModel, or with its projection for SDXL's second.

    Raises LorasmithError if any weight is missing or unknown; nothing is ever initialised at random.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig.from_dict(source.config(part))
    with torch.device("meta"):
        model = (CLIPTextModelWithProjection if part == "te2" else CLIPTextModel)(config)
    names = {plain_name(name): name for name in model.state_dict()}
    found = source.resolve(part, names)
    refs = {names.get(name, name): ref for name, ref in found.items()}
    fill(model, refs, dtype, device, part_title(part), source.where(part))
    for owner, leaf, buffer in _meta_buffers(model):
        if leaf != "position_ids":
            raise LorasmithError(
                f"{part_title(part)}: transformers has an unknown buffer {leaf}; this is a defect of ours"
            )
        owner._buffers[leaf] = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)
    return model.requires_grad_(False).eval()


def _meta_buffers(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for module in model.modules():
        for leaf, buffer in list(module._buffers.items()):
            if buffer is not None and buffer.is_meta:
                yield module, leaf, buffer


def plain_name(name: str) -> str:
    """A path inside a text encoder without `text_model.`, which versions of transformers add and drop."""
    return name.removeprefix("text_model.")


def classic_name(path: str) -> str:
    """A path inside a text encoder as LoRA files spell it, whatever transformers calls it."""
    plain = plain_name(path)
    return plain if plain.startswith("text_projection") else f"text_model.{plain}"


def load_tokenizer(source: StableDiffusionSource, part: str) -> Any:
    """Transformers' CLIP tokenizer of a text encoder."""
    from transformers import CLIPTokenizer

    folder = source.tokenizer(part)
    try:
        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise LorasmithError(f"{folder}: the tokenizer cannot be loaded: {error}") from None


def tokens(tokenizer: Any, text: str, vocabulary: Vocabulary | None) -> list[int]:
    """Token ids of a text of any length, without marks."""
    pieces = [text] if vocabulary is None else vocabulary.split(text)
    found: list[int] = []
    for piece in pieces:
        if isinstance(piece, NewToken):
            assert vocabulary is not None
            found += vocabulary.token_ids(piece)
        else:
            found += tokenizer(piece, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    return found


def learn(model: nn.Module, vocabulary: Vocabulary | None, part: str) -> None:
    """Put the new vectors behind a text encoder's own, in place of those that are there; None takes them off."""
    embeddings: Any = getattr(model, "text_model", model).embeddings
    own = embeddings.token_embedding
    own = own.base if isinstance(own, ExtendedEmbedding) else own
    embeddings.token_embedding = own if vocabulary is None else ExtendedEmbedding(own, vocabulary, part)


def embedding_table(model: nn.Module) -> Tensor:
    """The model's own token vectors, (tokens, width)."""
    core: Any = getattr(model, "text_model", model)
    return core.embeddings.token_embedding.weight


def windows(tokenizer: Any, texts: Sequence[list[int]], max_tokens: int) -> Tensor:
    """Token ids (B, max_tokens / 75, 77) of texts by their tokens: in each window begin, up to 75 tokens, end, and
    ends to fill up.

    What is longer than `max_tokens` is cut off.
    """
    room = WINDOW - 2
    if max_tokens < room or max_tokens % room:
        raise LorasmithError(
            f"max_tokens is {max_tokens}; it is a multiple of {room}: {room}, {2 * room}, {3 * room} ..."
        )
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = torch.full((len(texts), max_tokens // room, WINDOW), end, dtype=torch.int64)
    ids[:, :, 0] = begin
    for row, found in zip(ids, texts, strict=True):
        for window, start in zip(row, range(0, len(found), room), strict=False):
            part = torch.tensor(found[start : start + room])
            window[1 : 1 + len(part)] = part
    return ids


def refill(ids: Tensor, end: int, pad: int) -> Tensor:
    """`ids` (N, 77) with `pad` after each first end mark."""
    after = (ids == end).cumsum(-1) - (ids == end).int() > 0
    return torch.where(after, pad, ids) if pad != end else ids


def states(model: nn.Module, ids: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """The states (N, 77, width) of the `layer`-th layer from the end, and of the last, both without the final norm."""
    hidden = model(input_ids=ids, output_hidden_states=True).hidden_states
    if layer >= len(hidden):
        raise LorasmithError(f"clip_skip is {layer}; the text encoder has {len(hidden) - 1} layers")
    return hidden[-layer], hidden[-1]


def final_norm(model: nn.Module) -> nn.Module:
    """The LayerNorm after the last layer."""
    core: Any = getattr(model, "text_model", model)
    return core.final_layer_norm


def weigh(hidden: Tensor, weights: Tensor) -> Tensor:
    """Token states (N, 77, width) times `weights` (N, 77), each window brought back to the mean that it had (A1111)."""
    weighted = hidden * weights[..., None].to(hidden)
    mean, now = (x.float().mean((1, 2), keepdim=True) for x in (hidden, weighted))
    return (weighted * (mean / now)).to(hidden.dtype)
