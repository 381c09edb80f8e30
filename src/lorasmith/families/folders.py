"""Families are folders of this package: what each enters itself with, and the error for a name that no folder has."""

from __future__ import annotations

import importlib.util
import pkgutil
from collections.abc import Iterable

from lorasmith import families
from lorasmith.core.errors import LorasmithError, did_you_mean


def import_of_each(module: str) -> None:
    """Import the module of this name of every folder that has one, such as `loader`."""
    for folder in pkgutil.iter_modules(families.__path__):
        name = f"{families.__name__}.{folder.name}.{module}"
        if folder.ispkg and importlib.util.find_spec(name):
            importlib.import_module(name)


def no_such_family(kind: str, known: Iterable[str]) -> LorasmithError:
    """The error for a family that no folder implements, with the nearest one."""
    names = list(known)
    return LorasmithError(
        f'no family is called "{kind}"; there are {", ".join(names)}. {did_you_mean(kind, names)}'.rstrip()
    )
