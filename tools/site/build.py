"""Build the documentation site from docs/ into a folder. Any warning is an error, and so is a link that leads nowhere.

python -m tools.site.build build/site
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import main as sphinx_build

from tools.site.check_links import broken_links

SETTINGS = Path(__file__).parent
DOCS = SETTINGS.parents[1] / "docs"


def build(site: Path) -> int:
    """The exit code: 0, or 1 with the reasons on stderr. The folder is made anew."""
    shutil.rmtree(site, ignore_errors=True)
    options = ["-b", "html", "-c", str(SETTINGS), "-q", "-E", "-n", "-W", "--keep-going"]
    pages = site.resolve()
    # Sphinx' own working files lie beside the site, not in it.
    code = sphinx_build([*options, "-d", str(pages.with_name(f"{pages.name}-doctrees")), str(DOCS), str(pages)])
    if code:
        return 1
    broken = broken_links(pages)
    for line in broken:
        print(line, file=sys.stderr)
    if broken:
        return 1
    print(f"{len(list(pages.rglob('*.html')))} pages: {site / 'index.html'}")
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("site", type=Path, nargs="?", default=Path("build/site"))
    sys.exit(build(parser.parse_args().site))


if __name__ == "__main__":
    main()
