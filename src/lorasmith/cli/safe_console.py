"""A rich console that shows control characters and does not send them to the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from lorasmith.core.text_files import CONTROL, printable


class SafeConsole(Console):
    """Metadata of a file, captions and file names may hold escape sequences. Those of rich itself are added later, or
    are in segments of their own."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control is None and CONTROL.search(segment.text):
                segment = Segment(printable(segment.text), segment.style)
            yield segment
