"""Errors for people: what was found, where, what is allowed, what to do.

`LorasmithError` is the one class that a user's mistake may raise; the command line prints its text without a traceback.
Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


class LorasmithError(Exception):
    """A mistake that the user can repair. The message says what to do."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a config or a data set.

    `where` is a dotted key (`data.subsets.0.images`) or a file name; `found` what stands there; `allowed` what may
    stand there; `remedy` what to do about it.
    """

    where: str
    found: str
    allowed: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.found}" if self.where else self.found]
        if self.allowed:
            parts.append(f"    allowed: {self.allowed}")
        if self.remedy:
            parts.append(f"    to do: {self.remedy}")
        return "\n".join(parts)


class ConfigError(LorasmithError):
    """All problems of a config, together."""

    def __init__(self, problems: Sequence[Problem], source: str = "") -> None:
        self.problems = list(problems)
        count = len(self.problems)
        head = f"{count} problem{'s' if count != 1 else ''}{f' in {source}' if source else ''}:"
        super().__init__("\n".join([head, *(f"  {str(p).replace(chr(10), chr(10) + '  ')}" for p in self.problems)]))


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` was probably meant to be, or None."""
    found = get_close_matches(word.lower(), {c.lower(): c for c in choices}, n=1, cutoff=0.6)
    return next((c for c in choices if c.lower() == found[0]), None) if found else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`did you mean "rank"?`, or an empty string."""
    found = nearest(word, list(choices))
    return f'did you mean "{found}"?' if found else ""
