"""The page for package indexes is made from README.md, and holds nothing that needs the repository."""

from __future__ import annotations

import re

from tools.package_readme import SOURCE, TARGET, package_readme


def test_the_page_of_the_package_is_current() -> None:
    assert TARGET.read_text(encoding="utf-8") == package_readme(SOURCE.read_text(encoding="utf-8"))


def test_it_has_no_link_or_picture_that_needs_the_repository() -> None:
    page = TARGET.read_text(encoding="utf-8")
    assert re.findall(r"\]\((?!https?://)[^)]*\)", page) == []
    assert "make demo" not in page
