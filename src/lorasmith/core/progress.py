"""How long-running work reports its progress, without knowing who listens.

The library calls a `Progress`; the command line passes one that draws bars, the Python API a silent one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from lorasmith.core.text_files import printable


class Progress:
    """The silent listener; other listeners override both methods.

    >>> from contextlib import contextmanager
    >>> class Names(lorasmith.Progress):
    ...     @contextmanager
    ...     def track(self, description, total):
    ...         print(f"{description}: {total}")
    ...         yield lambda units, note: None
    >>> made = lorasmith.masks("photos/mia", "color", progress=Names())
    making masks: 4
    """

    @contextmanager
    def track(self, description: str, total: int) -> Generator[Callable[[int, str], None], None, None]:
        """A task of `total` units. The function that it gives takes the units done since the last call and a note."""
        yield lambda units, note: None

    @contextmanager
    def track_timed(self, description: str, total: int) -> Generator[Callable[[int, float, str], None], None, None]:
        """A task that has other work between its units, such as the previews between training steps. The function that
        it gives also takes the seconds that the units took, for the rate. By default as `track`, without them."""
        with self.track(description, total) as advance:
            yield lambda units, seconds, note: advance(units, note)

    def say(self, text: str) -> None:
        """One line that a person should read: what happens now, or a warning."""


class Lines(Progress):
    """Prints each message as one line; for logs and pipes.

    >>> messages = []
    >>> lorasmith.Lines(messages.append).say("a message for a list")
    >>> messages
    ['a message for a list']
    >>> lorasmith.Lines().say("a message")
    a message
    """

    def __init__(self, write: Callable[[str], object] = print) -> None:
        self.write = write

    def say(self, text: str) -> None:
        self.write(printable(text))
