"""`file:strength`, as LoRA files are named on the command line, in configs and in the Python API."""

from __future__ import annotations

import math
import re
from pathlib import Path

from lorasmith.core.errors import LorasmithError

# behind the suffix of a file, a colon can only begin a strength; elsewhere it may belong to the path, as in C:\loras
_BEHIND_SUFFIX = re.compile(r"(.*\.(?:safetensors|pth|pt|ckpt|bin)):([^/\\]*)", re.IGNORECASE | re.DOTALL)
_LOOKS_NUMERIC = re.compile(r"[-+]?(?:[\d.,]+%?|nan|inf(?:inity)?)", re.IGNORECASE)


def split_strength(text: str) -> tuple[Path, float]:
    """The path and the strength of `file.safetensors:0.8`; without a strength behind the last colon, strength 1.

    Raises LorasmithError for a strength that is not a finite number.
    """
    match = _BEHIND_SUFFIX.fullmatch(text)
    if match is not None:
        path, number = match.groups()
        return Path(path), parse_strength(number, text)
    path, _, number = text.rpartition(":")
    if not path or not (_LOOKS_NUMERIC.fullmatch(number) or _is_float(number)):
        return Path(text), 1.0
    return Path(path), parse_strength(number, text)


def parse_strength(number: str, source: str) -> float:
    """A strength as a number. `source`: the text that it is a part of, for the error (LorasmithError)."""
    if not _is_float(number):
        hint = f", with a point: {number.replace(',', '.')}" if re.fullmatch(r"[-+]?\d*,\d+", number) else ""
        raise LorasmithError(f'"{source}": the strength "{number}" is not a number; write one{hint or ", such as 0.8"}')
    strength = float(number)
    if not math.isfinite(strength):
        raise LorasmithError(f'"{source}": the strength must be a finite number, such as 0.8')
    return strength


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
