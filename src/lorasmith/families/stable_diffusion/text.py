"""CLIP text encoders and their tokens. transformers is imported when the first encoder or tokenizer is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.concepts import Vocabulary
from lorasmith.concepts.vocabulary import ExtendedEmbedding, NewToken
from lorasmith.core.errors import LorasmithError
from lorasmith.core.text_files import SURROGATE, describe_surrogate, printable
from lorasmith.families.reader import TensorRef, fill
from lorasmith.families.source import Source
from lorasmith.families.stable_diffusion.source import part_title

WINDOW = 77
"""Tokens of one window, including the begin and end tokens."""


def load_text_encoder(source: Source, part: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A frozen text encoder: transformers' CLIPTextModel, or with its projection where the pooled text is projected.

    Raises LorasmithError if any weight is missing or unknown; nothing is ever initialised at random.
    """
    model, refs = empty_text_encoder(source, part)
    fill(model, refs, dtype, device, part_title(part), source.where(part))
    _fill_position_ids(model, part, device)
    return model.requires_grad_(False).eval()


def empty_text_encoder(source: Source, part: str) -> tuple[nn.Module, dict[str, TensorRef]]:
    """A text encoder on the meta device, and where its weights are stored."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig.from_dict(source.config(part))
    model_class = CLIPTextModelWithProjection if source.projects(part) else CLIPTextModel
    with torch.device("meta"):
        model = model_class(config)

    # The source knows names without `text_model.`; the model may have them with it.
    name_in_model = {plain_name(name): name for name in model.state_dict()}
    resolved = source.resolve(part, name_in_model)
    return model, {name_in_model.get(name, name): ref for name, ref in resolved.items()}


def _fill_position_ids(model: nn.Module, part: str, device: torch.device) -> None:
    """Give the only buffer that is not in the files, 0, 1, 2 ..., its values."""
    for module in model.modules():
        for name, buffer in list(module._buffers.items()):
            if buffer is None or not buffer.is_meta:
                continue
            if name != "position_ids":
                raise LorasmithError(
                    f"{part_title(part)}: transformers has an unknown buffer {name}; please report this as a bug"
                )
            module._buffers[name] = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)


def plain_name(name: str) -> str:
    """A path inside a text encoder without `text_model.`, which some versions of transformers add."""
    return name.removeprefix("text_model.")


def classic_name(path: str) -> str:
    """A path inside a text encoder as LoRA files spell it, whatever transformers calls it."""
    plain = plain_name(path)
    return plain if plain.startswith("text_projection") else f"text_model.{plain}"


def load_tokenizer(source: Source, part: str) -> Any:
    """Transformers' CLIP tokenizer of a text encoder."""
    from transformers import CLIPTokenizer

    folder = source.tokenizer(part)
    try:
        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise LorasmithError(f"{folder}: the tokenizer cannot be loaded: {error}") from None


def tokens(tokenizer: Any, text: str, vocabulary: Vocabulary | None) -> list[int]:
    """Token ids of a text of any length, without begin and end tokens. Raises LorasmithError for a text that is not
    valid Unicode, as an argument in another encoding than the terminal's."""
    if SURROGATE.search(text):
        raise LorasmithError(f'the text "{printable(ascii(text)[1:-1])}" {describe_surrogate(text)}')
    pieces = [text] if vocabulary is None else vocabulary.split(text)
    ids: list[int] = []
    for piece in pieces:
        if isinstance(piece, NewToken):
            assert vocabulary is not None
            ids += vocabulary.token_ids(piece)
        else:
            ids += tokenizer(piece, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    return ids


def learn(model: nn.Module, vocabulary: Vocabulary | None, part: str) -> None:
    """Append the embeddings of new tokens to a text encoder's, in place of earlier ones; None removes them."""
    embeddings: Any = _core(model).embeddings
    embedding = embeddings.token_embedding
    if isinstance(embedding, ExtendedEmbedding):
        embedding = embedding.base
    if vocabulary is not None:
        embedding = ExtendedEmbedding(embedding, vocabulary, part)
    embeddings.token_embedding = embedding


def embedding_table(model: nn.Module) -> Tensor:
    """The model's token embeddings, without new tokens, (tokens, width)."""
    return _core(model).embeddings.token_embedding.weight


def final_norm(model: nn.Module) -> nn.Module:
    """The LayerNorm after the last layer."""
    return _core(model).final_layer_norm


def _core(model: Any) -> Any:
    """The module with embeddings and layers, which some versions of transformers wrap as `text_model`."""
    return getattr(model, "text_model", model)


def windows(tokenizer: Any, texts: Sequence[list[int]], max_tokens: int) -> Tensor:
    """Token ids (B, max_tokens / 75, 77) of texts given by their tokens.

    Each window has a begin token, up to 75 tokens of the text, and end tokens as padding. What is longer than
    `max_tokens` is cut off.
    """
    room = WINDOW - 2
    if max_tokens < room or max_tokens % room:
        raise LorasmithError(
            f"max_tokens is {max_tokens}; it must be a multiple of {room}: {room}, {2 * room}, {3 * room} ..."
        )
    ids = torch.full((len(texts), max_tokens // room, WINDOW), tokenizer.eos_token_id, dtype=torch.int64)
    ids[:, :, 0] = tokenizer.bos_token_id
    for text_windows, text in zip(ids, texts, strict=True):
        for window, start in zip(text_windows, range(0, len(text), room), strict=False):
            part = torch.tensor(text[start : start + room])
            window[1 : 1 + len(part)] = part
    return ids


def refill(ids: Tensor, end: int, pad: int) -> Tensor:
    """`ids` (N, 77) with `pad` after each first end token."""
    if pad == end:
        return ids
    is_end = ids == end
    after_first_end = is_end.cumsum(-1) - is_end.int() > 0
    return torch.where(after_first_end, pad, ids)


def states(model: nn.Module, ids: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """The states (N, 77, width) of the `layer`-th layer from the end, and of the last, both without the final norm."""
    hidden = model(input_ids=ids, output_hidden_states=True).hidden_states
    if layer >= len(hidden):
        raise LorasmithError(f"clip_skip is {layer}; the text encoder has {len(hidden) - 1} layers")
    return hidden[-layer], hidden[-1]


def weigh(hidden: Tensor, weights: Tensor) -> Tensor:
    """Token states (N, 77, width) times `weights` (N, 77). The mean of each window is restored (A1111's way)."""
    weighted = hidden * weights[..., None].to(hidden)
    mean_before = hidden.float().mean((1, 2), keepdim=True)
    mean_after = weighted.float().mean((1, 2), keepdim=True)
    return (weighted * (mean_before / mean_after)).to(hidden.dtype)
