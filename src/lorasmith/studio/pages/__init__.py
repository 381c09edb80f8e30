"""The pages of the studio. To add one, add a file here that defines `PAGE`, and `static/pages/NAME.js`."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from lorasmith.studio.page import Page


def all_pages() -> list[Page]:
    """All pages in the order of the navigation."""
    modules = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return sorted((module.PAGE for module in modules), key=lambda page: page.order)
