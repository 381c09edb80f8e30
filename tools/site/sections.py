"""The menu of the site, from the lists of links on the page `docs/index.md`.

The page is a list of links under headings, which also reads well where no site is built. Each heading becomes a section
of the menu, and each link to another page an entry of it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
_ENTRY = re.compile(r"^\* \[[^\]]+\]\((?!\.\./|https?:)([\w/-]+)\.md\)", re.MULTILINE)


def menu(page: str) -> dict[str, list[str]]:
    """Each heading of the page with the names of the pages that are listed below it."""
    parts = _HEADING.split(page)
    found = {title: _ENTRY.findall(body) for title, body in zip(parts[1::2], parts[2::2], strict=True)}
    return {title: entries for title, entries in found.items() if entries}


def toctrees(page: str) -> str:
    """The menu as hidden tables of contents, which Sphinx makes its menu from."""
    fences = []
    for title, entries in menu(page).items():
        fences.append("\n".join(["```{toctree}", ":hidden:", f":caption: {title}", "", *entries, "```"]))
    return "\n\n".join(fences)


def connect(app: Sphinx) -> None:
    app.connect("source-read", _add_toctrees)


def _add_toctrees(app: Sphinx, name: str, source: list[str]) -> None:
    if name == app.config.root_doc:
        source[0] = f"{source[0]}\n\n{toctrees(source[0])}\n"
