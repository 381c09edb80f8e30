"""Fold the prose of generated Markdown pages to 120 columns."""

from __future__ import annotations

import re
import textwrap

WIDTH = 120
_LIST_ITEM = re.compile(r"^\s*(?:[*+-]|\d+\.)\s+")
_KEPT_AS_IT_IS = ("|", "#", "    ", "<", "!", ">", "---")
"""Beginnings of lines that are not prose: tables, headings, code, HTML, pictures, quotations, rules."""


def fold(page: str) -> str:
    """The page with each paragraph and list item folded; tables, code and headings stay as they are."""
    result: list[str] = []
    paragraph: list[str] = []
    in_code = False

    def flush() -> None:
        if paragraph:
            result.extend(_folded(paragraph))
            paragraph.clear()

    for line in page.split("\n"):
        fence = line.lstrip().startswith("```")
        if fence or in_code or not line.strip() or line.startswith(_KEPT_AS_IT_IS):
            flush()
            in_code ^= fence
            result.append(line)
            continue
        if _LIST_ITEM.match(line):
            flush()
        paragraph.append(line)
    flush()
    return "\n".join(result)


def _folded(paragraph: list[str]) -> list[str]:
    item = _LIST_ITEM.match(paragraph[0])
    indent = item.group() if item else ""
    text = " ".join([paragraph[0].removeprefix(indent), *(line.strip() for line in paragraph[1:])])
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_long_words=False,
        break_on_hyphens=False,
    )
