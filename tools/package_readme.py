"""Write README.package.md, the page that a package index shows: README.md without links and pictures that need the
repository.

    python -m tools.package_readme

A package index shows one page, without the files beside it. Pictures are left out, links to files become the names of
these files, and the set-up by `make` is replaced by that with pip.
"""

from __future__ import annotations

import re
from pathlib import Path

from tools.markdown import fold

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "README.md"
TARGET = ROOT / "README.package.md"
_PICTURE = re.compile(r"!\[[^\]]*\]\([^)]*\)\n*")
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?://)([^)]+)\)")
_DEMO = re.compile(r"    make demo\n.*?(?=\n## )", re.DOTALL)
PIP_DEMO = """    pip install lorasmith
    lorasmith demo

needs Python 3.11: no GPU, no account, no model download. It trains a LoRA of *garp*, a small character, on a tiny base
model that comes with the package, and prints where the before/after picture is.

On Linux, pip installs a PyTorch with CUDA, several GB. For a machine without an NVIDIA GPU, install PyTorch's CPU build
first; pytorch.org shows the command for your system.
"""


def package_readme(readme: str) -> str:
    """The page of the package from that of the repository."""
    page, count = _DEMO.subn(lambda _: PIP_DEMO, readme, count=1)
    if count != 1:
        raise ValueError("README.md has no section that begins with `make demo`")
    page = _PICTURE.sub("", page)
    page = _LINK.sub(_name_of_target, page)
    # what introduced a picture ends without one
    page = re.sub(r":\n\n(?=## )", ".\n\n", page)
    # pip puts the program on the path, or into a virtual environment of the reader's own
    page = re.sub(r"    source \.venv/bin/activate .*\n", "", page)
    page = re.sub(r"Without the first line, .*\n\n", "", page)
    return fold(page)


def _name_of_target(link: re.Match[str]) -> str:
    text, target = link.groups()
    return f"`{text}`" if "/" in text or text.endswith(".md") else f"{text} (`{target}`)"


def main() -> None:
    TARGET.write_text(package_readme(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
