"""Reading a config: TOML plus `key=value` overrides into one typed record, with all problems at once."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError

from lorasmith.core.errors import ConfigError, LorasmithError, Problem, did_you_mean

M = TypeVar("M", bound=BaseModel)
Table = dict[str, Any]
Location = tuple[int | str, ...]
"""Where a value is in a nested table: keys, and indices of lists."""
MAX_INLINE_WIDTH = 120
"""Longer lists of tables are written over several lines."""
MAX_VALUE_WIDTH = 120
"""Values whose text is longer are not repeated in error messages."""


def read_table(path: Path) -> Table:
    """The table of a TOML or JSON file. Raises LorasmithError with the line of a syntax error."""
    if not path.is_file():
        raise LorasmithError(f"{path}: no such file")
    text = path.read_text(encoding="utf-8-sig")
    try:
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        language = path.suffix[1:].upper() or "TOML"
        raise LorasmithError(f"{path}: not valid {language}: {error}") from None


def override(table: Table, assignments: Sequence[str]) -> Table:
    """A copy of `table` with dotted `key=value` assignments applied; values are read as TOML, else as plain text."""
    result: Table = json.loads(json.dumps(table, default=str))
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign:
            raise LorasmithError(f'"{assignment}" is not an override; write key=value, for example adapter.rank=8')
        *parents, last = key.strip().split(".")
        # the table or list that holds the value; tables that are missing on the way are added
        node: Any = result
        for parent in parents:
            if isinstance(node, list):
                node = cast("list[Any]", node)[int(parent)]
            else:
                node = cast(Table, node).setdefault(parent, {})
            if isinstance(node, str):
                raise LorasmithError(f'override "{assignment}": "{parent}" holds a plain value, not a table')
        value = read_value(text.strip())
        if isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value
    return result


def read_value(text: str) -> Any:
    """A value as TOML reads it; what is not TOML is a plain text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


# From pydantic's errors to ours


def validate(model: type[M], table: Table, source: str = "") -> M:
    """`table` as a `model`; raises ConfigError with every problem. `source`: the name of the file."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        raise ConfigError(problems_of(error, model), source) from None


def problems_of(error: ValidationError, model: type[BaseModel], prefix: Location = ()) -> list[Problem]:
    """pydantic's errors as problems; those inside components, which validate themselves, are unpacked.

    `prefix`: where `model` is in the whole config.
    """
    problems: list[Problem] = []
    for details in error.errors(include_url=False):
        location: Location = details["loc"]
        context = details.get("ctx", {})
        if details["type"] == "component_fields":
            problems += problems_of(context["inner"], context["of"], (*prefix, *location))
            continue
        # an unknown key is no field of the model, so all of its location stays
        if details["type"] != "extra_forbidden":
            location = config_location(model, location)
        where = ".".join(str(part) for part in (*prefix, *location))
        problems.append(describe(dict(details), where, model))
    return join_alternatives(problems)


def config_location(model: type[BaseModel], location: Location) -> Location:
    """The part of a location that exists in a config: pydantic adds the member of a union that it tried."""
    current: type[BaseModel] | None = model
    for i, part in enumerate(location):
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part) if current is not None else None
        if field is None:
            return location[:i]
        current = model_in(field.annotation)
    return location


def join_alternatives(problems: list[Problem]) -> list[Problem]:
    """The problems with the members of a union, each of which was tried on the same value, joined into one."""
    by_value: dict[tuple[str, str], Problem] = {}
    # pydantic reports one error for each member of a union, all about one value
    for problem in problems:
        key = (problem.where, problem.found)
        earlier = by_value.get(key)
        if earlier is not None and problem.allowed not in earlier.allowed:
            problem = replace(earlier, allowed=f"{earlier.allowed}; or: {problem.allowed}")
        by_value[key] = problem
    return list(by_value.values())


def describe(details: Table, where: str, model: type[BaseModel]) -> Problem:
    """One of pydantic's errors as a problem."""
    error_type, context = details["type"], details.get("ctx", {})
    if error_type == "extra_forbidden":
        *parents, key = details["loc"]
        fields = field_names(model, tuple(parents))
        return Problem(where, "unknown key", ", ".join(sorted(fields)), did_you_mean(str(key), fields))
    if error_type == "missing":
        return Problem(where, "missing; it has no default", "", "add it")
    if error_type == "component_kind":
        return Problem(where, details["msg"], context["choices"], context["hint"])
    value = repr(details.get("input"))
    found = f"found {value}" if len(value) < MAX_VALUE_WIDTH else "found a value of the wrong form"
    return Problem(where, found, details["msg"].removeprefix("Value error, "))


def field_names(model: type[BaseModel], location: Location) -> list[str]:
    """Names of the fields of the nested model at `location`, as far as annotations tell."""
    current = model
    for part in location:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part)
        if field is None:
            return []
        current = model_in(field.annotation) or current
    return list(current.model_fields)


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The first model in a type annotation such as `tuple[Model, ...]` or `Model | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        model = model_in(argument)
        if model is not None:
            return model
    return None


# Writing TOML


def to_toml(table: Table) -> str:
    """A table as TOML: plain values first, then sub-tables; None is left out. `tomllib.loads` is its inverse."""
    lines: list[str] = []
    write_table(table, "", lines)
    return "\n".join(lines).strip() + "\n"


def write_table(table: Table, prefix: str, lines: list[str]) -> None:
    """Append the lines of a table. `prefix`: the keys above it, each with a dot behind."""
    # plain values come first: behind the head of a sub-table they would belong to that
    for key, value in table.items():
        if value is not None and not isinstance(value, dict) and not is_long_list_of_tables(value):
            lines.append(f"{quote_key(key)} = {inline(value)}")
    for key, value in table.items():
        path = f"{prefix}{quote_key(key)}"
        if isinstance(value, dict):
            lines += ["", f"[{path}]"]
            write_table(cast(Table, value), f"{path}.", lines)
        elif is_long_list_of_tables(value):
            for inner in cast("list[Table]", value):
                lines += ["", f"[[{path}]]"]
                write_table(inner, f"{path}.", lines)


def is_long_list_of_tables(value: Any) -> bool:
    """Whether a value is a list of tables that is written with a head for each, because one line would be too long."""
    if not isinstance(value, list | tuple) or not value:
        return False
    items = cast("list[Any]", value)
    return all(isinstance(item, dict) for item in items) and len(inline(items)) > MAX_INLINE_WIDTH


def quote_key(key: Any) -> str:
    """A key as TOML writes it: bare if it has ASCII letters, digits, - and _ only, else quoted."""
    text = str(key)
    is_bare = text.isascii() and text.replace("-", "").replace("_", "").isalnum()
    return text if is_bare else quote(text)


def quote(text: str) -> str:
    """A TOML string. JSON's escapes are TOML's, except that TOML also wants DEL escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def inline(value: Any) -> str:
    """A value on one line of TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)  # TOML spells inf, -inf and nan as Python does
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        pairs = [(k, v) for k, v in cast(Table, value).items() if v is not None]
        return "{" + ", ".join(f"{quote_key(k)} = {inline(v)}" for k, v in pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(inline(item) for item in cast("list[Any]", value)) + "]"
    return quote(str(value))
