"""Settings of Sphinx for the documentation site. `python -m tools.site.build` uses them."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

from tools.site import repository_files, sections

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "Lorasmith"
author = "the Lorasmith developers"
version = release = installed_version("lorasmith")
root_doc = "index"

extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_url_schemes = ["http", "https", "mailto", repository_files.SCHEME]

html_theme = "furo"
html_title = f"Lorasmith {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_last_updated_fmt = None
html_theme_options = {"sidebar_hide_name": False}
pygments_style = "tango"
pygments_dark_style = "github-dark"
highlight_language = "none"
smartquotes = False


def setup(app: Sphinx) -> None:
    sections.connect(app)
    repository_files.connect(app)
