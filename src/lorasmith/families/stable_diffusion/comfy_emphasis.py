"""Emphasis as ComfyUI reads and applies it (`comfy/sd1_clip.py`).

It differs from A1111's (`emphasis.py`) in four ways. `[word]` and `BREAK` are plain text. A number in brackets replaces
the weight of the brackets around them instead of multiplying it. A weight scales the distance from the states of an
empty text at the same position, and the mean of a window is not restored. Texts of more than 75 tokens are cut into
windows as A1111 cuts them here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lorasmith.families.base import Conditioning, TextSide
from lorasmith.families.stable_diffusion import emphasis
from lorasmith.families.stable_diffusion.conditioning import CONTEXT
from lorasmith.families.stable_diffusion.emphasis import Piece

_ESCAPED = {"\\(": "\0", "\\)": "\1"}


def parse(prompt: str) -> list[Piece]:
    """Pieces of text with their weights. `\\(` is a plain bracket."""
    for escape, mark in _ESCAPED.items():
        prompt = prompt.replace(escape, mark)
    pieces: list[Piece] = []
    for text, weight in _pieces(prompt, 1.0):
        for escape, mark in _ESCAPED.items():
            text = text.replace(mark, escape[1:])
        pieces.append((text, weight))
    return pieces or [("", 1.0)]


def _pieces(text: str, weight: float) -> list[Piece]:
    """The text cut at its outermost brackets; what is inside is cut again, with its own weight."""
    found: list[Piece] = []
    for part in _outer_parts(text):
        if len(part) >= 2 and part[0] == "(" and part[-1] == ")":
            found += _pieces(*_bracket(part[1:-1], weight))
        else:
            found.append((part, weight))
    return found


def _bracket(inside: str, outer_weight: float) -> Piece:
    """The text and the weight of a bracket: 1.1 times that around it, or the number after its last colon."""
    text, colon, number = inside.rpartition(":")
    if colon and text:
        try:
            return text, float(number)
        except ValueError:
            pass
    return inside, outer_weight * emphasis.BRACKET_FACTOR


def _outer_parts(text: str) -> list[str]:
    """The text cut before each outermost `(` and after its `)`; brackets that are never closed count to the end."""
    parts: list[str] = []
    depth, start = 0, 0
    for index, character in enumerate(text):
        if character == "(":
            if depth == 0:
                parts.append(text[start:index])
                start = index
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                parts.append(text[start : index + 1])
                start = index + 1
    parts.append(text[start:])
    return [part for part in parts if part]


def encode(text_side: TextSide, texts: Sequence[str], *, clip_skip: int = 1) -> Conditioning:
    """Texts with emphasis as one conditioning, of as many windows as the longest needs."""
    ids, weights = emphasis.ids_of(text_side, texts, parse=parse)
    conditioning = text_side.encode_ids(ids, clip_skip=clip_skip)
    if bool((weights == 1).all()):
        return conditioning
    empty_ids, _ = emphasis.ids_of(text_side, [""])
    empty = text_side.encode_ids(empty_ids, clip_skip=clip_skip)[CONTEXT]
    return conditioning.with_tensors(**{CONTEXT: _weigh(conditioning[CONTEXT], empty, weights)})


def _weigh(context: Tensor, empty: Tensor, weights: Tensor) -> Tensor:
    """(B, [layers,] windows 77, width) with each state's distance from that of the empty text (1, [layers,] 77, width)
    times its weight (B, windows, 77)."""
    windows = weights.shape[1]
    base = torch.cat([empty] * windows, dim=-2)
    factors = weights.flatten(1).to(context)[..., None]
    if context.ndim == 4:
        factors = factors[:, None]
    return base + (context - base) * factors
