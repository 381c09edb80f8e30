"""Links from the pages to files of the repository that are not pages: source code, recipes, examples.

In the repository such a link opens the file. The site has a page for each of these files and folders, so that its links
work wherever the site is put.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.util import logging
from sphinx.util.osutil import relative_uri

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
SCHEME = "repository"
_LINK = re.compile(r"\]\((\.\./[^)#\s]*)(?:#[^)\s]*)?\)")
_LANGUAGES = {".py": "python", ".toml": "toml", ".md": "markdown", ".js": "javascript", ".css": "css", ".ipynb": "json"}
_log = logging.getLogger(__name__)


def connect(app: Sphinx) -> None:
    app.connect("source-read", _mark_links)
    app.connect("doctree-read", _point_to_pages)
    app.connect("html-collect-pages", _pages)


def path_in_repository(page: str, target: str) -> str | None:
    """The path of a link's target from the top of the repository; None if the target is a page or picture in docs."""
    joined = os.path.normpath(PurePosixPath("docs", page).parent / target)
    path = PurePosixPath(joined)
    return None if path.parts[0] == "docs" else path.as_posix()


def page_of(path: str) -> str:
    """The name of the page that shows a file or folder. A folder's page has another name than a file in it can have."""
    return f"repository/{path}/index" if (ROOT / path).is_dir() else f"repository/{path}"


def _mark_links(app: Sphinx, name: str, source: list[str]) -> None:
    def marked(link: re.Match[str]) -> str:
        path = path_in_repository(name, link[1])
        return link.group() if path is None else f"]({SCHEME}:{path})"

    source[0] = _LINK.sub(marked, source[0])


def _point_to_pages(app: Sphinx, doctree: nodes.document) -> None:
    page = app.env.docname
    for link in doctree.findall(nodes.reference):
        scheme, _, path = link.get("refuri", "").partition(":")
        if scheme != SCHEME:
            continue
        if not (ROOT / path).exists():
            _log.warning("the repository has no %s", path, location=link)
            continue
        link["repository_path"] = path
        link["refuri"] = app.builder.get_relative_uri(page, page_of(path))


def _pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    waiting = sorted(_linked(app))
    done: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in done:
            continue
        done.add(path)
        here = page_of(path)
        if (ROOT / path).is_dir():
            inside = _readable_files(ROOT / path)
            waiting += inside
            body = _folder(here, inside)
        else:
            body = _file(app, path)
        yield here, {"title": path, "body": f"<h1>{html.escape(path)}</h1>{body}"}, "page.html"


def _linked(app: Sphinx) -> set[str]:
    found: set[str] = set()
    for page in app.env.found_docs:
        links = app.env.get_doctree(page).findall(nodes.reference)
        found |= {link["repository_path"] for link in links if "repository_path" in link}
    return found


def _readable_files(folder: Path) -> list[str]:
    """The files of text in a folder, not of the folders in it."""
    files = [file for file in folder.iterdir() if file.suffix in _LANGUAGES]
    return sorted(file.relative_to(ROOT).as_posix() for file in files)


def _folder(here: str, files: list[str]) -> str:
    items = []
    for file in files:
        address = relative_uri(f"{here}.html", f"{page_of(file)}.html")
        items.append(f'<li><a class="reference internal" href="{html.escape(address)}">{html.escape(file)}</a></li>')
    return f"<ul>{''.join(items)}</ul>"


def _file(app: Sphinx, path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    language = _LANGUAGES.get(PurePosixPath(path).suffix, "none")
    highlighted = app.builder.highlighter.highlight_block(text, language, linenos="inline")  # type: ignore[attr-defined]
    return f'<div class="repository-file">{highlighted}</div>'
