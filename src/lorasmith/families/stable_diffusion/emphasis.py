"""Emphasis in texts, and texts of any length, as prompts and weighted captions have them (A1111's syntax).

`(word)` is 1.1 times as strong, `[word]` 1 / 1.1, `(word:1.3)` 1.3 times; `\\(` is a plain bracket; `BREAK` begins a
new window of 75 tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lorasmith.families.base import Conditioning, TextSide

TOKEN = re.compile(
    r"\\[()\[\]\\]|\(|\[|:\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*\)|\)|\]|\s*\bBREAK\b\s*|[^\\()\[\]:B\s]+|\s+|.", re.DOTALL
)
WINDOW = 75
BACKTRACK = 20
"""A full window ends at its last comma if that is among this many of its last tokens."""
BRACKET_FACTOR = 1.1
_CLOSING = {"(": ")", "[": "]"}
BREAK = ("BREAK", -1.0)
"""The piece that begins a new window."""


Piece = tuple[str, float]
"""A text with its weight."""
Parse = Callable[[str], list[Piece]]
"""How a program reads a prompt."""


def parse(prompt: str) -> list[Piece]:
    """Pieces of text with their weights; the piece `BREAK` begins a new window."""
    pieces: list[Piece] = []
    open_brackets: dict[str, list[int]] = {"(": [], "[": []}  # for each the numbers of the pieces that follow it

    for match in TOKEN.finditer(prompt):
        token = match.group()
        opening, factor = _closed_bracket(token)
        if token in open_brackets:
            open_brackets[token].append(len(pieces))
        elif opening and open_brackets[opening]:
            _multiply(pieces, open_brackets[opening].pop(), factor)
        elif token.strip() == "BREAK":
            pieces.append(BREAK)
        else:
            is_escape = token.startswith("\\") and len(token) > 1
            pieces.append((token[1:] if is_escape else token, 1.0))

    # Brackets that are never closed count to the end.
    for opening, starts in open_brackets.items():
        _, factor = _closed_bracket(_CLOSING[opening])
        for start in starts:
            _multiply(pieces, start, factor)
    return _merge_equal_weights(pieces)


def _closed_bracket(token: str) -> tuple[str, float]:
    """The opening bracket that a token closes, and the factor of what is inside; empty if it closes none."""
    if token.startswith(":") and token.endswith(")"):
        return "(", float(token[1:-1])
    if token == ")":
        return "(", BRACKET_FACTOR
    if token == "]":
        return "[", 1 / BRACKET_FACTOR
    return "", 1.0


def _multiply(pieces: list[Piece], start: int, factor: float) -> None:
    for i in range(start, len(pieces)):
        if pieces[i] != BREAK:
            text, weight = pieces[i]
            pieces[i] = (text, weight * factor)


def _merge_equal_weights(pieces: Sequence[Piece]) -> list[Piece]:
    """Adjacent pieces of one weight as one piece, so that words are tokenized whole. `BREAK` stays a piece."""
    merged: list[Piece] = []
    for piece in pieces:
        if merged and BREAK not in (piece, merged[-1]) and piece[1] == merged[-1][1]:
            merged[-1] = (merged[-1][0] + piece[0], piece[1])
        else:
            merged.append(piece)
    return merged or [("", 1.0)]


def count_windows(text_side: TextSide, texts: Sequence[str], parse: Parse = parse) -> int:
    """How many windows the longest of the texts needs."""
    return max(len(tokens_of(text_side, text, parse)) for text in texts)


def encode(text_side: TextSide, texts: Sequence[str], *, clip_skip: int = 1, count: int | None = None) -> Conditioning:
    """Texts with emphasis as one conditioning, of `count` windows, or as many as the longest needs; the rest is cut
    off.

    Token states are multiplied by the weights, and the mean of each window is restored; gradients flow.
    """
    ids, weights = ids_of(text_side, texts, count)
    if bool((weights == 1).all()):
        return text_side.encode_ids(ids, clip_skip=clip_skip)
    return text_side.encode_ids(ids, clip_skip=clip_skip, weights=weights)


def ids_of(
    text_side: TextSide, texts: Sequence[str], count: int | None = None, parse: Parse = parse
) -> tuple[Tensor, Tensor]:
    """Token ids and weights (B, count, 77) of texts with emphasis."""
    windows = [tokens_of(text_side, text, parse)[:count] for text in texts]
    count = count or max(len(of_text) for of_text in windows)
    filled = [_to_tensors(text_side, of_text, count) for of_text in windows]
    return torch.stack([ids for ids, _ in filled]), torch.stack([weights for _, weights in filled])


Window = list[tuple[int, float]]
"""Token ids with their weights, at most 75."""


def tokens_of(text_side: TextSide, prompt: str, parse: Parse = parse) -> list[Window]:
    """The windows of a prompt; a full one ends at a comma if there is one near its end."""
    comma = text_side.tokens(",")
    windows: list[Window] = [[]]
    for text, weight in parse(prompt):
        if (text, weight) == BREAK:
            windows.append([])
            continue
        for token in text_side.tokens(text):
            if len(windows[-1]) == WINDOW:
                # If the next token is a comma, the full window ends with a whole phrase and nothing is moved.
                windows.append([] if [token] == comma else _split_after_comma(windows[-1], comma))
            windows[-1].append((token, weight))
    return windows


def _split_after_comma(window: Window, comma: list[int]) -> Window:
    """Take from a full window what follows its last comma, if that is near the end, and return it."""
    for count in range(BACKTRACK):
        token, _ = window[WINDOW - 1 - count]
        if [token] == comma:
            rest = window[WINDOW - count :]
            del window[WINDOW - count :]
            return rest
    return []


def _to_tensors(text_side: TextSide, windows: list[Window], count: int) -> tuple[Tensor, Tensor]:
    """(count, 77) ids and weights, with begin and end tokens."""
    tokenizer = text_side.tokenizer
    ids = torch.full((count, WINDOW + 2), tokenizer.eos_token_id)
    weights = torch.ones(count, WINDOW + 2)
    ids[:, 0] = tokenizer.bos_token_id
    for i, window in enumerate(windows):
        for j, (token, weight) in enumerate(window):
            ids[i, j + 1] = token
            weights[i, j + 1] = weight
    return ids, weights
