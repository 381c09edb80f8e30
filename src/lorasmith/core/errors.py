"""Errors for people: what was found, where, what is allowed, what to do.

`LorasmithError` is the one class that a user's mistake may raise; the command line prints its text without a traceback.
Any other exception that escapes is a bug in Lorasmith and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


class LorasmithError(Exception):
    """A mistake that the user can repair. The message says what to do.

    >>> try:
    ...     lorasmith.inspect("photos/mia/mia-01.txt")
    ... except lorasmith.LorasmithError as error:
    ...     print("mia-01.txt" in str(error))
    True
    """


class WriteError(LorasmithError):
    """A file could not be written: the disk is full, the folder is read-only, a name is too long. A run goes on after
    it, because the weights in memory are worth more than one file."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a config or a data set.

    `where`: a dotted key (`data.subsets.0.images`) or a file name; `found`: what is there; `allowed`: what may be
    there; `remedy`: what to do about it.
    """

    where: str
    found: str
    allowed: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.found}" if self.where else self.found]
        if self.allowed:
            lines.append(f"    allowed: {self.allowed}")
        if self.remedy:
            lines.append(f"    to do: {self.remedy}")
        return "\n".join(lines)


class ConfigError(LorasmithError):
    """All problems of a config together. `source`: the name of its file.

    >>> try:
    ...     lorasmith.train("mia.toml", overrides=["adapter.rnak=8"])
    ... except lorasmith.ConfigError as error:
    ...     print(error.problems[0])
    adapter.rnak: unknown key
        to do: did you mean "rank"?
    """

    def __init__(self, problems: Sequence[Problem], source: str = "") -> None:
        self.problems = list(problems)
        self.source = source
        count = len(self.problems)
        noun = "problem" if count == 1 else "problems"
        place = f" in {source}" if source else ""
        # every line of a problem, so that it stands apart from the next
        indented = [f"  {problem}".replace("\n", "\n  ") for problem in self.problems]
        super().__init__("\n".join([f"{count} {noun}{place}:", *indented]))


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` was probably meant to be, whatever its case; None if none is similar."""
    by_lower_case: dict[str, str] = {}
    for choice in choices:
        # of choices that differ in case alone, the first
        by_lower_case.setdefault(choice.lower(), choice)
    matches = get_close_matches(word.lower(), by_lower_case, n=1, cutoff=0.6)
    return by_lower_case[matches[0]] if matches else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`did you mean "rank"?`, or an empty string if no choice is similar."""
    choice = nearest(word, choices)
    return f'did you mean "{choice}"?' if choice else ""
