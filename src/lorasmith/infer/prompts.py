"""Prompts: emphasis, LoRA tags, long texts, files of prompts.

`(word)` is 1.1 times as strong, `[word]` 1 / 1.1, `(word:1.3)` 1.3 times; `\\(` is a plain bracket; `BREAK` begins a
new window of 75 tokens. `<lora:name:0.8>` asks for a LoRA at a strength.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorasmith.core.config import read_table
from lorasmith.core.errors import LorasmithError
from lorasmith.families.base import Cond, Family

LORA_TAG = re.compile(r"<(?:lora|lyco):([^:>]+)(?::([^:>]*))?(?::([^:>]*))?>")
TOKEN = re.compile(
    r"\\[()\[\]\\]|\(|\[|:\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*\)|\)|\]|\s*\bBREAK\b\s*|[^\\()\[\]:B\s]+|\s+|.", re.DOTALL
)
WINDOW = 75
BACKTRACK = 20
"""A full window ends at its last comma if that is among so many of its last tokens."""
BREAK = ("BREAK", -1.0)
"""The piece that begins a new window."""


@dataclass(frozen=True)
class LoraTag:
    """`<lora:name:te:unet>`; one number stands for both."""

    name: str
    text: float = 1.0
    unet: float = 1.0


def split_loras(prompt: str) -> tuple[str, list[LoraTag]]:
    """The prompt without its LoRA tags, and the tags. Raises LorasmithError if a strength is not a number."""
    tags = []
    for match in LORA_TAG.finditer(prompt):
        name, first, second = match.groups()
        try:
            text = float(first) if first else 1.0
            tags.append(LoraTag(name.strip(), text, float(second) if second else text))
        except ValueError:
            raise LorasmithError(
                f"{match.group()}: the strength is not a number; write <lora:name:0.8>, or <lora:name:text:unet>"
            ) from None
    return " ".join(LORA_TAG.sub(" ", prompt).split()) if tags else prompt, tags


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


def encode(family: Family, texts: Sequence[str], *, clip_skip: int = 1) -> Cond:
    """Texts with emphasis as one condition, of as many windows as the longest needs."""
    windows = [tokens_of(family, text) for text in texts]
    count = max(len(w) for w in windows)
    ids, weights = zip(*(_filled(family, w, count) for w in windows), strict=True)
    weight = torch.stack(weights).to(family.device)
    plain = bool((weight == 1).all())
    return family.encode_ids(torch.stack(ids), clip_skip=clip_skip, weights=None if plain else weight)


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


OPTIONS: dict[str, tuple[str, type[Any]]] = {
    "n": ("negative", str),
    "w": ("width", int),
    "h": ("height", int),
    "d": ("seed", int),
    "s": ("steps", int),
    "l": ("cfg", float),
    "ss": ("sampler", str),
}
KEYS: dict[str, tuple[str, type[Any]]] = {
    **{name: (name, read) for name, read in OPTIONS.values()},
    "prompt": ("prompt", str),
    "negative_prompt": ("negative", str),
    "sample_steps": ("steps", int),
    "scale": ("cfg", float),
    "sample_sampler": ("sampler", str),
    "clip_skip": ("clip_skip", int),
    "rescale": ("rescale", float),
}
"""Keys of TOML and JSON files, ours and sd-scripts', to the name in a request."""


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """A file of prompts: `.txt` with one a line (`#` is a comment; options such as `--n blurry --d 7`), or `.toml` and
    `.json` as sd-scripts has them: a list of tables, or defaults in `prompt` and the tables in `prompt.subset`.

    Each result is a table with `prompt` and what it asks for besides. Sides are rounded down to multiples of 8, at
    least 64, as sd-scripts does. Raises LorasmithError, naming the line or table, for what is unknown or does not fit.
    """
    if not path.is_file():
        raise LorasmithError(f"{path}: no such file of prompts")
    if path.suffix.lower() in (".toml", ".json"):
        tables = _tables(path, read_table(path))
        found = [_typed(table, KEYS, f"{path}: prompt {i}") for i, table in enumerate(tables, 1)]
    else:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        found = [parse_line(line, f"{path}:{i}") for i, line in enumerate(lines, 1) if line and line[0] != "#"]
    if not found:
        raise LorasmithError(f"{path}: there is no prompt in it")
    return found


def _tables(path: Path, content: Any) -> list[dict[str, Any]]:
    tables: Any = content
    if isinstance(content, dict):
        shared = content.get("prompt", {})
        shared = dict(shared) if isinstance(shared, dict) else {"subset": shared}
        subsets = shared.pop("subset", [shared] if "prompt" in shared else [])
        tables = [{**shared, **t} if isinstance(t, dict) else t for t in subsets] if isinstance(subsets, list) else None
    if not isinstance(tables, list) or not all(isinstance(t, dict) and "prompt" in t for t in tables):
        raise LorasmithError(f"{path}: expected a list of tables, each with a `prompt`")
    return tables


def parse_line(line: str, place: str = "") -> dict[str, Any]:
    """One prompt with its `--` options. Raises LorasmithError for an unknown option or a value that does not fit."""
    prompt, *options = re.split(r"(?:^|\s+)--(?=[A-Za-z]+(?:\s|$))", line)
    table: dict[str, Any] = {}
    for option in options:
        key, _, value = option.partition(" ")
        table[key] = value.strip()
    return {"prompt": prompt.strip()} | _typed(table, OPTIONS, place, "--")


def _typed(
    table: dict[str, Any], known: dict[str, tuple[str, type[Any]]], place: str, sign: str = ""
) -> dict[str, Any]:
    """The table with our names and types."""
    result: dict[str, Any] = {}
    start = f"{place}: " if place else ""
    for key, value in table.items():
        if key not in known:
            listed = ", ".join(sign + k for k in known)
            raise LorasmithError(f"{start}unknown option {sign}{key}; known: {listed}")
        name, read = known[key]
        try:
            result[name] = read(value)
        except (TypeError, ValueError):
            kind = "a whole number" if read is int else "a number"
            raise LorasmithError(f"{start}{sign}{key} is {value!r}, which is not {kind}") from None
        if name in ("width", "height"):
            result[name] = max(64, result[name] // 8 * 8)
    return result
