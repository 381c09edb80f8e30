"""Find links, anchors and pictures of a built site that lead nowhere. Links to other sites are not followed."""

from __future__ import annotations

import html
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Sphinx writes attributes in double quotes, and quotes in text as entities, so no parser is needed.
_TARGET = re.compile(r'<(?:a|img|script)\b[^>]*?\s(?:href|src)="([^"]*)"')
_ANCHOR = re.compile(r'\sid="([^"]*)"')


def broken_links(site: Path) -> list[str]:
    """One line for each link of a page to a file or an anchor that the site does not have."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(site.resolve().rglob("*.html"))}
    anchors = {path: set(_ANCHOR.findall(text)) for path, text in texts.items()}
    found = []
    for path, text in texts.items():
        for target in sorted(set(_TARGET.findall(text))):
            problem = _problem(path, html.unescape(target), anchors)
            if problem:
                found.append(f"{path.relative_to(site.resolve())}: {target}: {problem}")
    return found


def _problem(page: Path, target: str, anchors: dict[Path, set[str]]) -> str:
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return ""
    file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not file.is_file():
        return "no such file"
    if parts.fragment and file in anchors and unquote(parts.fragment) not in anchors[file]:
        return "no such anchor"
    return ""
