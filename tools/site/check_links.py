"""Find links, anchors and pictures of a built site that lead nowhere. Links to other sites are not followed."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup


def broken_links(site: Path) -> list[str]:
    """One line for each link of a page to a file or an anchor that the site does not have."""
    pages = {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in site.rglob("*.html")}
    anchors = {path: {str(node["id"]) for node in page.find_all(id=True)} for path, page in pages.items()}
    found = []
    for path, page in sorted(pages.items()):
        targets = {str(node["href"]) for node in page.find_all("a", href=True)}
        targets |= {str(node["src"]) for node in page.find_all(["img", "script"], src=True)}
        for target in sorted(targets):
            problem = _problem(path, target, anchors)
            if problem:
                found.append(f"{path.relative_to(site)}: {target}: {problem}")
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
