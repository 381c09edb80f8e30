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

LORA_TAG = re.compile(r"<lora:([^:>]+)(?::([-+.\d]+))?(?::([-+.\d]+))?>")
TOKEN = re.compile(r"\\[()\[\]\\]|\(|\[|:\s*[+-]?[.\d]+\s*\)|\)|\]|\bBREAK\b|[^\\()\[\]:B]+|.", re.DOTALL)
WINDOW = 75


@dataclass(frozen=True)
class LoraTag:
    """`<lora:name:te:unet>`; one number stands for both."""

    name: str
    text: float = 1.0
    unet: float = 1.0


def split_loras(prompt: str) -> tuple[str, list[LoraTag]]:
    """The prompt without its LoRA tags, and the tags."""
    tags = []
    for name, first, second in LORA_TAG.findall(prompt):
        text = float(first) if first else 1.0
        tags.append(LoraTag(name.strip(), text, float(second) if second else text))
    return " ".join(LORA_TAG.sub(" ", prompt).split()) if tags else prompt, tags


def parse(prompt: str) -> list[tuple[str, float]]:
    """Pieces of text with their weights; a piece `("BREAK", -1)` begins a new window."""
    pieces: list[list[Any]] = []
    round_open: list[int] = []
    square_open: list[int] = []

    def multiply(start: int, factor: float) -> None:
        for piece in pieces[start:]:
            if piece[1] >= 0:
                piece[1] *= factor

    for match in TOKEN.finditer(prompt):
        token = match.group()
        if token.startswith("\\") and len(token) > 1:
            pieces.append([token[1:], 1.0])
        elif token == "(":
            round_open.append(len(pieces))
        elif token == "[":
            square_open.append(len(pieces))
        elif token.startswith(":") and token.endswith(")") and len(token) > 1 and round_open:
            multiply(round_open.pop(), float(token[1:-1]))
        elif token == ")" and round_open:
            multiply(round_open.pop(), 1.1)
        elif token == "]" and square_open:
            multiply(square_open.pop(), 1 / 1.1)
        elif token == "BREAK":
            pieces.append(["BREAK", -1.0])
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
        if joined and weight >= 0 and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + text, weight)
        else:
            joined.append((text, weight))
    return joined or [("", 1.0)]


def encode(family: Family, prompts: Sequence[str], negatives: Sequence[str], clip_skip: int = 1) -> Cond:
    """Prompts, followed by negative prompts, as one condition of as many windows as the longest needs."""
    windows = [tokens_of(family, text) for text in (*prompts, *negatives)]
    count = max(len(w) for w in windows)
    ids, weights = zip(*(_filled(family, w, count) for w in windows), strict=True)
    weight = torch.stack(weights).to(family.device)
    plain = bool((weight == 1).all())
    return family.encode_ids(torch.stack(ids), clip_skip=clip_skip, weights=None if plain else weight)


Windows = list[list[tuple[int, float]]]


def tokens_of(family: Family, prompt: str) -> Windows:
    """Token ids with weights, in windows of at most 75."""
    windows: Windows = [[]]
    for text, weight in parse(prompt):
        if weight < 0:
            windows.append([])
            continue
        for token in plain_tokens(family, text):
            if len(windows[-1]) == WINDOW:
                windows.append([])
            windows[-1].append((token, weight))
    return windows


def plain_tokens(family: Family, text: str) -> list[int]:
    """Token ids of a text of any length, without marks."""
    return list(family.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids)


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


OPTIONS = {
    "n": ("negative", str),
    "w": ("width", int),
    "h": ("height", int),
    "d": ("seed", int),
    "s": ("steps", int),
    "l": ("cfg", float),
    "ss": ("sampler", str),
}
KOHYA_KEYS = {"negative_prompt": "negative", "sample_steps": "steps", "scale": "cfg", "sample_sampler": "sampler"}


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """A file of prompts: `.txt` with one a line (`#` is a comment; options such as `--n blurry --d 7`), or `.toml` and
    `.json` as sd-scripts has them. Each is a table with `prompt` and what it asks for besides."""
    if not path.is_file():
        raise LorasmithError(f"{path}: no such file of prompts")
    if path.suffix == ".txt":
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        found = [parse_line(line, f"{path}:{i}") for i, line in enumerate(lines, 1) if line and line[0] != "#"]
    else:
        table: Any = read_table(path)
        shared = dict(table.get("prompt", {})) if isinstance(table, dict) else {}
        subsets = shared.pop("subset", []) if isinstance(table, dict) else table
        found = [{KOHYA_KEYS.get(str(k), str(k)): v for k, v in (shared | s).items()} for s in subsets]
    if not found:
        raise LorasmithError(f"{path}: there is no prompt in it")
    return found


def parse_line(line: str, place: str = "") -> dict[str, Any]:
    """One prompt with its `--` options. Raises LorasmithError for an unknown option or a value that does not fit."""
    prompt, *options = re.split(r"\s--(?=[a-z]{1,2}\s)", line)
    result: dict[str, Any] = {"prompt": prompt.strip()}
    for option in options:
        key, _, value = option.partition(" ")
        if key not in OPTIONS:
            raise LorasmithError(f"{place}: unknown option --{key}; known: {', '.join('--' + k for k in OPTIONS)}")
        name, read = OPTIONS[key]
        try:
            result[name] = read(value.strip())
        except ValueError:
            raise LorasmithError(f"{place}: --{key} {value} is not a number") from None
    return result
