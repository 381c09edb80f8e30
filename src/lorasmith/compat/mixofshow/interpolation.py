"""References in a YAML file, as OmegaConf resolves them: `${models.pretrained_path}`, `${.size}`, `${oc.env:HOME}`.

The original reads its files with OmegaConf, so a file of it may say a value once and refer to it elsewhere.
"""

from __future__ import annotations

import os
import re
from typing import Any

from lorasmith.core.errors import ConfigError, Problem

REFERENCE = re.compile(r"\$\{([^{}]*)\}")
MISSING = "???"
"""OmegaConf's mark of a value that must be filled in."""
MAX_VALUES = 100_000
"""Values after all references are replaced. A reference to a table counts as its values."""

Place = tuple[str | int, ...]
"""Keys and indices from the root of the file to a value."""


def resolve(table: dict[Any, Any], source: str) -> dict[str, Any]:
    """The table with every reference replaced by the value that it names. Raises ConfigError with all that name none,
    and with all values that are still to be filled in."""
    resolver = Resolver(table)
    resolved = resolver.value(table, (), ())
    if resolver.problems:
        raise ConfigError(resolver.problems, source)
    return resolved


class Resolver:
    """Replaces references, and collects what is wrong with them."""

    def __init__(self, root: dict[Any, Any]) -> None:
        self.root = root
        self.problems: list[Problem] = []
        self._count = 0

    def value(self, value: Any, place: Place, active: tuple[Place, ...]) -> Any:
        """A value with its references replaced. `active`: places whose values are being replaced, to find circles."""
        self._count += 1
        if self._count > MAX_VALUES:
            raise ConfigError([Problem("", f"its references stand for more than {MAX_VALUES:,} values")], "the file")
        if isinstance(value, dict):
            return {str(key): self.value(inner, (*place, str(key)), active) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.value(inner, (*place, index), active) for index, inner in enumerate(value)]
        if value == MISSING:
            self._problem(place, f'the value is "{MISSING}"', "fill it in")
            return None
        if not isinstance(value, str) or "${" not in value:
            return value
        # A reference that is the whole value keeps its type; others become text.
        whole = REFERENCE.fullmatch(value)
        if whole:
            return self._named_value(whole[1], place, active)
        text = REFERENCE.sub(lambda match: str(self._named_value(match[1], place, active)), value)
        if "${" in REFERENCE.sub("", value):
            self._problem(place, f'found "{value}"', "write one reference inside another as its value")
        return text

    def _named_value(self, name: str, place: Place, active: tuple[Place, ...]) -> Any:
        """What `${name}` at a place stands for."""
        resolver, colon, argument = name.partition(":")
        if colon:
            return self._environment_value(resolver.strip(), argument, place)
        target = target_place(name.strip(), place)
        if target in active:
            self._problem(place, f'"${{{name}}}" refers to itself', "write the value out")
            return None
        found: Any = self.root
        for key in target:
            found = child(found, key)
            if found is None:
                self._problem(place, f'"${{{name}}}" names no value of the file', "correct the name, or write it out")
                return None
        return self.value(found, target, (*active, target))

    def _environment_value(self, resolver: str, argument: str, place: Place) -> str | None:
        """`${oc.env:NAME}` or `${oc.env:NAME,default}`; other resolvers are not known here."""
        variable, comma, default = argument.partition(",")
        if resolver not in ("oc.env", "env"):
            self._problem(place, f'"${{{resolver}:...}}" is not supported', "write the value out")
            return None
        found = os.environ.get(variable.strip())
        if found is None and not comma:
            self._problem(place, f"the environment variable {variable.strip()} is not set", "set it, or write it out")
        return default.strip() if found is None else found

    def _problem(self, place: Place, what: str, remedy: str) -> None:
        self.problems.append(Problem(".".join(map(str, place)), what, remedy=remedy))


def target_place(name: str, place: Place) -> Place:
    """The place that a reference names: from the root, or, with dots in front, from the table that it is in."""
    dots = len(name) - len(name.lstrip("."))
    start = place[: max(0, len(place) - dots)] if dots else ()
    # `a.b[0]` and `a.b.0` are the same.
    keys = name[dots:].replace("[", ".").replace("]", "").split(".")
    return (*start, *(key for key in keys if key))


def child(value: Any, key: str | int) -> Any:
    """The value of a key or index; None if there is none."""
    if isinstance(value, list):
        return value[int(key)] if str(key).isdecimal() and int(key) < len(value) else None
    if not isinstance(value, dict):
        return None
    return next((inner for name, inner in value.items() if str(name) == str(key)), None)
