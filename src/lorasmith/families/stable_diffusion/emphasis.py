"""Emphasis in texts, and texts of any length, as prompts and weighted captions have them (A1111's syntax).

`(word)` is 1.1 times as strong, `[word]` 1 / 1.1, `(word:1.3)` 1.3 times; `\\(` is a plain bracket; `BREAK` begins a
new window of 75 tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lorasmith.families.base import Conditioning, Family

TOKEN = re.compile(
    r"\\[()\[\]\\]|\(|\[|:\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*\)|\)|\]|\s*\bBREAK\b\s*|[^\\()\[\]:B\s]+|\s+|.", re.DOTALL
)
WINDOW = 75
BACKTRACK = 20
"""A full window ends at its last comma if that is among so many of its last tokens."""
BREAK = ("BREAK", -1.0)
"""The piece that begins a new window."""


def parse(prompt: str) -> list[tuple[str, float]]:
    """Pieces of text with their weights; the piece `BREAK` begins a new window."""
    pieces: list[list[Any]] = []
    round_open: list[int] = []
    square_open: list[int] = []

    def multiply(start: int, factor: float) -> None:
        for piece in pieces[start:]:
            if tuple(piece) != BREAK:
                piece[1] *= factor

    for match in TOKEN.finditer(prompt):
        token = match.group()
        if token.startswith("\\") and len(token) > 1:
            pieces.append([token[1:], 1.0])
        elif token == "(":
            round_open.append(len(pieces))
        elif token == "[":
            square_open.append(len(pieces))
        elif token.startswith(":") and token.endswith(")") and round_open:
            multiply(round_open.pop(), float(token[1:-1]))
        elif token == ")" and round_open:
            multiply(round_open.pop(), 1.1)
        elif token == "]" and square_open:
            multiply(square_open.pop(), 1 / 1.1)
        elif token.strip() == "BREAK":
            pieces.append([*BREAK])
        else:
            pieces.append([token, 1.0])
    for start in round_open:
        multiply(start, 1.1)
    for start in square_open:
        multiply(start, 1 / 1.1)
    return _joined(pieces)


def _joined(pieces: list[list[Any]]) -> list[tuple[str, float]]:
    joined: list[tuple[str, float]] = []
    for text, weight in pieces:
        if joined and joined[-1][1] == weight and BREAK not in ((text, weight), joined[-1]):
            joined[-1] = (joined[-1][0] + text, weight)
        else:
            joined.append((text, weight))
    return joined or [("", 1.0)]


def count_windows(family: Family, texts: Sequence[str]) -> int:
    """How many windows the longest of some texts needs."""
    return max(len(tokens_of(family, text)) for text in texts)


def encode(family: Family, texts: Sequence[str], *, clip_skip: int = 1, count: int | None = None) -> Conditioning:
    """Texts with emphasis as one condition, of `count` windows, or as many as the longest needs; the rest is cut off.

    Token states are multiplied by the weights, and each window gets the mean back that it had; gradients flow.
    """
    ids, weight = ids_of(family, texts, count)
    plain = bool((weight == 1).all())
    return family.encode_ids(ids, clip_skip=clip_skip, weights=None if plain else weight.to(family.device))


def ids_of(family: Family, texts: Sequence[str], count: int | None = None) -> tuple[Tensor, Tensor]:
    """Token ids and weights (B, count, 77) of texts with emphasis."""
    windows = [tokens_of(family, text)[:count] for text in texts]
    count = count or max(len(w) for w in windows)
    ids, weights = zip(*(_filled(family, w, count) for w in windows), strict=True)
    return torch.stack(ids), torch.stack(weights)


Windows = list[list[tuple[int, float]]]


def tokens_of(family: Family, prompt: str) -> Windows:
    """Token ids with weights, in windows of at most 75 that end at a comma where one is near."""
    comma = plain_tokens(family, ",")
    windows: Windows = [[]]
    for text, weight in parse(prompt):
        if (text, weight) == BREAK:
            windows.append([])
            continue
        for token in plain_tokens(family, text):
            if len(windows[-1]) == WINDOW:
                windows.append(_after_comma(windows[-1], comma) if [token] != comma else [])
            windows[-1].append((token, weight))
    return windows


def _after_comma(window: list[tuple[int, float]], comma: list[int]) -> list[tuple[int, float]]:
    """Takes off a full window what stands after its last comma, if that is near the end, and gives it back."""
    for taken in range(BACKTRACK):
        if [window[WINDOW - 1 - taken][0]] == comma:
            rest = window[WINDOW - taken :]
            del window[WINDOW - taken :]
            return rest
    return []


def plain_tokens(family: Family, text: str) -> list[int]:
    """Token ids of a text of any length, without marks."""
    return family.tokens(text)


def _filled(family: Family, windows: Windows, count: int) -> tuple[Tensor, Tensor]:
    """(count, 77) ids and weights with begin and end marks."""
    tokenizer = family.tokenizer
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = torch.full((count, WINDOW + 2), end)
    weights = torch.ones(count, WINDOW + 2)
    ids[:, 0] = begin
    for i, window in enumerate(windows):
        for j, (token, weight) in enumerate(window):
            ids[i, j + 1], weights[i, j + 1] = token, weight
    return ids, weights
