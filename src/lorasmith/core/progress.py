"""How long work tells where it stands, without knowing who listens.

The library calls a `Progress`; the command line gives one that draws bars, the Python API a silent one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Progress:
    """The silent listener; others override both methods."""

    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """A task of `total` units; the function it gives takes units done since the last call and a note."""
        yield lambda units, note: None

    def say(self, text: str) -> None:
        """One line that a person should read: what happens now, or a warning."""


class Lines(Progress):
    """Prints what is said, one line each; for logs and pipes."""

    def __init__(self, write: Callable[[str], object] = print) -> None:
        self.write = write

    def say(self, text: str) -> None:
        self.write(text)
