"""YAML files that people wrote, read within bounds.

YAML lets a value refer to another one (`*name`), so that a file of a few lines can stand for billions of values, or for
one that contains itself. The size of what a file stands for is therefore counted before anything is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import yaml

from lorasmith.core.errors import LorasmithError
from lorasmith.core.text_files import MAX_DEPTH, check_content, require_size

MAX_VALUES = 100_000
"""Values that a file may stand for, with those that are referred to counted each time."""
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's parser where PyYAML has it: ten times as fast."""


class _Loader(Loader):
    """Refuses a key that is in a table twice; plain YAML readers keep the last one without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        # before merging (`<<: *defaults`), since a key may well replace one of the defaults
        seen: dict[str, Any] = {}
        for key, _ in node.value:
            if key.value in seen and isinstance(key.value, str) and key.value != "<<":
                first_line = seen[key.value].start_mark.line + 1
                problem = f'the key "{key.value}" is in the table twice (first in line {first_line})'
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if isinstance(key.value, str):
                seen[key.value] = key
        table: dict[Any, Any] = Loader.construct_mapping(self, node, deep)
        return table


def parse_yaml(text: str, path: Path) -> Any:
    """The content of a YAML file: tables, lists and plain values. Raises LorasmithError with the line of an error."""
    require_size(text, path, "YAML")
    try:
        check_references(text, path)
        content = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise LorasmithError(f"{path}: not valid YAML: {error}") from None
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        # values that have the form of a date or number, but are none: 2024-13-40
        raise LorasmithError(f"{path}: not valid YAML: a value cannot be read ({error})") from None
    check_content(content, path)
    return content


def check_references(text: str, path: Path) -> None:
    """Raises LorasmithError if a file stands for too many values, is nested too deeply, or contains itself."""
    counts: dict[str, int] = {}
    # the anchors of the lists and tables that are open, and the number of values in each so far
    open_collections: list[tuple[str | None, int]] = []
    events: Iterator[Any] = cast(Any, yaml).parse(text, Loader)
    for event in events:
        line = event.start_mark.line + 1
        count = 1
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_collections):
                raise LorasmithError(f"{path}: line {line}: *{event.anchor} is inside of itself; write the values out")
            count = counts.get(str(event.anchor), 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_collections.append((event.anchor, 1))
            if len(open_collections) > MAX_DEPTH:
                raise LorasmithError(f"{path}: line {line}: more than {MAX_DEPTH} tables or lists inside each other")
            continue
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, count = open_collections.pop()
            if anchor is not None:
                counts[anchor] = count
        elif not isinstance(event, yaml.ScalarEvent):
            continue

        if open_collections:
            anchor, total = open_collections[-1]
            open_collections[-1] = (anchor, total + count)
        if count > MAX_VALUES:
            raise LorasmithError(
                f"{path}: line {line}: with its references (*name), the file stands for more than {MAX_VALUES:,} "
                "values; write out what you need"
            )
