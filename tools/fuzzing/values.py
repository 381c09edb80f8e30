"""Values that nobody means, and small damage to values and bytes that somebody did mean."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]
"""The function of hypothesis that draws from a strategy."""

ODD_TEXTS = (
    "", " ", "\0", "\x1b]0;x\x07\x1b[31mred", "\x9b2J", "\u202eevil", "..", "../../../tmp/x", "/", "/dev/zero",
    "~", "~nobody/x", "a" * 300, "a/" * 200, "C:\\temp\\new", "nan", "inf", "-1", "1e999", "0x10", "true", "None",
    "null", "{}", "[]", "{", "[[[", '"', "'", "\\", "(((", ")))", "(a:1e9)", "(a:nan)", "[a:b:0.5]", "<lora:x:1>",
    "{step:99d}", "{0}", "{name.__class__}", "%s", "${x}", "*", "**", "?", "[!", "(a+)+$", "(?:a|a)*b", "a,b,,c",
    ":", "a:b:c", "a=b=c", "=", "\n\n", "\r", "\t", "\ufeff", "é" * 80, "日本語", "🦊", "e\u0301", "\u200b", "<TOK>",
    "<s1><s2>", "auto", "cuda:99", "cuda", "meta", "fp16", "http://x.invalid/y", "a b c",
)  # fmt: skip
SURROGATES = ("\ud800", "caf\udce9", "\udfff x")
ODD_NUMBERS = (
    0, 1, -1, 2, 3, 7, 64, 255, 256, 1000, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 0.0, -0.0,
    0.5, 1e-45, 1e-8, 1e38, 1e308, -1e308, 1.5,
)  # fmt: skip
NOT_FINITE = (float("nan"), float("inf"), float("-inf"))


def texts() -> st.SearchStrategy[str]:
    return st.one_of(st.sampled_from(ODD_TEXTS), st.text(st.characters(exclude_categories=("Cs",)), max_size=20))


def numbers() -> st.SearchStrategy[int | float]:
    return st.one_of(st.sampled_from(ODD_NUMBERS), st.integers(-100, 2000), st.floats(-10, 10))


def plain() -> st.SearchStrategy[Any]:
    """Plain values that JSON can hold."""
    return st.one_of(st.none(), st.booleans(), numbers(), texts(), st.sampled_from([*NOT_FINITE, *SURROGATES]))


def values() -> st.SearchStrategy[Any]:
    """Any value that JSON can hold, small."""
    return st.recursive(
        plain(),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts(), inner, max_size=3)),
        max_leaves=6,
    )


def similar(value: Any) -> st.SearchStrategy[Any]:
    """Values of the same type, which get past a check of types."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int | float):
        return numbers()
    return texts() if isinstance(value, str) else values()


def places_in(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all values in a nested table or list."""
    found = [place] if place else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places_in(inner, (*place, key))
    return found


def damaged(draw: Draw, value: Any, times: int = 2) -> Any:
    """A copy of a table or list in which a few values are replaced, removed, repeated or renamed."""
    result = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, times))):
        places = places_in(result)
        if not places:
            return draw(values())
        *way, last = draw(st.sampled_from(places))
        parent = result
        for key in way:
            parent = parent[key]
        what = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "list", "table"]))
        if what == "replace":
            parent[last] = draw(st.one_of(similar(parent[last]), values()))
        elif what == "remove":
            del parent[last]
        elif what == "list":
            parent[last] = [parent[last]] * draw(st.integers(0, 3))
        elif what == "table":
            parent[last] = {draw(texts()): parent[last]}
        elif isinstance(parent, dict):
            parent[draw(texts())] = parent.pop(last)
    return draw(values()) if draw(st.integers(0, 30)) == 0 else result


def damaged_bytes(draw: Draw, data: bytes) -> bytes:
    """Bytes of which some are changed, cut off, repeated or added."""
    result = bytearray(data)
    what = draw(st.sampled_from(["flip", "flip", "flip", "cut", "splice", "zero", "append", "random"]))
    if what == "random" or not result:
        return draw(st.binary(max_size=200))
    if what == "flip":
        # the beginning of a file holds its structure
        span = draw(st.sampled_from([len(result), min(len(result), 200)]))
        for _ in range(draw(st.integers(1, 6))):
            result[draw(st.integers(0, span - 1))] = draw(st.integers(0, 255))
    elif what == "cut":
        del result[draw(st.integers(0, len(result) - 1)) :]
    elif what == "append":
        result += draw(st.binary(min_size=1, max_size=40))
    else:
        start = draw(st.integers(0, len(result) - 1))
        length = draw(st.integers(1, 64))
        filler = bytes(length) if what == "zero" else bytes(result[:length])
        result[start : start + (length if what == "zero" else 0)] = filler
    return bytes(result)
