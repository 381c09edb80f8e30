"""The check of the built site finds what leads nowhere, and the menu follows the front page."""

from __future__ import annotations

from pathlib import Path

from tools.site.check_links import broken_links
from tools.site.repository_files import path_in_repository
from tools.site.sections import menu, toctrees

DOCS = Path(__file__).parents[2] / "docs"


def test_links_to_missing_files_and_anchors_are_found(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.html").write_text(
        '<h1 id="top"></h1><a class="x" href="../two.html#there">1</a><a href="../two.html#gone">2</a>'
        '<a href="three.html">3</a><a href="https://example.org/x">4</a><a href="#top">5</a><img src="../no.png"/>'
    )
    (tmp_path / "two.html").write_text('<p id="there"></p>')
    assert broken_links(tmp_path) == [
        "a/one.html: ../no.png: no such file",
        "a/one.html: ../two.html#gone: no such anchor",
        "a/one.html: three.html: no such file",
    ]


def test_a_link_out_of_the_documentation_is_a_file_of_the_repository() -> None:
    assert path_in_repository("adapters", "../src/lorasmith/adapters/lora.py") == "src/lorasmith/adapters/lora.py"
    assert path_in_repository("measurements/README", "../../examples/") == "examples"
    assert path_in_repository("measurements/README", "../fusion.md") is None


def test_the_menu_is_made_of_the_lists_of_the_front_page() -> None:
    page = (
        "# Top\n\n## Start\n\n* [One](one.md): text\n* [Code](../src/)\n\n## More\n\n* [Two](sub/two.md)\n\n## None\n\n"
    )
    assert menu(page) == {"Start": ["one"], "More": ["sub/two"]}
    assert toctrees(page).startswith("```{toctree}\n:hidden:\n:caption: Start\n\none\n```")


def test_every_page_is_in_the_menu_once() -> None:
    listed = [name for names in menu((DOCS / "index.md").read_text(encoding="utf-8")).values() for name in names]
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")} - {"index"}
    assert sorted(listed) == sorted(pages)
