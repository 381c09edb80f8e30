"""Values by module path, with regular expressions as keys: `rank_pattern` and `alpha_pattern` of a peft config.

The expressions come from files of other people, and Python's `re` takes longer than the universe is old for one such
as `(a+)+b`. Most are plain paths, which are looked up; RE2 matches the others, in a time that grows with their length
only. It has no lookarounds and no references to groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import re2

from lorasmith.core.errors import LorasmithError

MAX_LENGTH = 500
"""Characters of an expression."""
MAX_EXPRESSIONS = 200
"""Expressions other than plain paths."""
MAX_BYTES = 1 << 20
"""Memory of one compiled expression."""
_PLAIN_PATH = re.compile(r"(?:\w|-|\\?\.)+")


class PathPatterns:
    """The values of patterns. As in peft, a pattern matches a path or the end of one, behind a dot, and the first
    pattern that matches counts."""

    def __init__(self, values: Mapping[str, float], name: str) -> None:
        """`name`: of the field, for errors. Raises LorasmithError for an expression that cannot be read."""
        self.name = name
        self._paths: dict[str, tuple[int, float]] = {}
        self._expressions: list[tuple[int, Any, float]] = []
        for position, (pattern, value) in enumerate(values.items()):
            if _PLAIN_PATH.fullmatch(pattern):
                self._paths.setdefault(pattern.replace("\\", ""), (position, value))
            else:
                self._expressions.append((position, self._compile(pattern), value))

    def find(self, path: str) -> float | None:
        """The value for a module path; None if no pattern matches."""
        matches = [self._paths[tail] for tail in _tails(path) if tail in self._paths]
        for position, expression, value in self._expressions:
            if expression.fullmatch(path):
                matches.append((position, value))
                break
        return min(matches)[1] if matches else None

    def _compile(self, pattern: str) -> Any:
        """The expression, compiled by RE2."""
        shown = repr(pattern if len(pattern) <= 80 else f"{pattern[:80]} ...")
        if len(pattern) > MAX_LENGTH or len(self._expressions) >= MAX_EXPRESSIONS:
            raise LorasmithError(
                f"{self.name}: {shown} is too much (at most {MAX_EXPRESSIONS} expressions of {MAX_LENGTH} characters); "
                "write the paths of the layers in its place"
            )
        options = re2.Options()
        options.max_mem = MAX_BYTES
        options.log_errors = False
        try:
            return re2.compile(rf"(?:.*\.)?(?:{pattern})", options)
        except re2.error as error:
            reason = error.args[0].decode() if isinstance(error.args[0], bytes) else error
            raise LorasmithError(
                f"{self.name}: {shown} is not a regular expression that can be matched safely ({reason}); write the "
                "paths of the layers in its place"
            ) from None


def _tails(path: str) -> Iterator[str]:
    """The path, and what is behind each of its dots."""
    yield path
    while "." in path:
        _, _, path = path.partition(".")
        yield path
