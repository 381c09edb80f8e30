"""Reading a config: TOML plus `key=value` overrides into one typed record, with all problems at once."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError

from lorasmith.core.errors import ConfigError, LorasmithError, Problem, did_you_mean
from lorasmith.core.text_files import SURROGATE, describe_surrogate, parse_json, parse_toml, read_text

M = TypeVar("M", bound=BaseModel)
Table = dict[str, Any]
Location = tuple[int | str, ...]
"""Where a value is in a nested table: keys, and indices of lists."""
MAX_INLINE_WIDTH = 120
"""Longer lists of tables are written over several lines."""
MAX_VALUE_WIDTH = 120
"""Longer values are cut in error messages."""
UNKNOWN_KEY = "unknown key"
"""What is found where a table has a key that is not a setting."""
DRIVE = re.compile(r"[A-Za-z]:[\\/\b\t\n\f\r]")
ESCAPED = re.compile(r"[\0\b\t\n\f\r]")
"""The characters that TOML's one-letter escapes stand for, and NUL, which no path can have."""
AI_TOOLKIT = re.compile(r"^job\s*:", re.MULTILINE)
"""In YAML files of ai-toolkit, unlike in those of Mix-of-Show."""
WINDOWS_PATHS = "write Windows paths with / or in single quotes: 'C:\\images'"
ALLOWED = {
    "path_type": "a path in quotes",
    "string_type": "a text in quotes",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list in brackets",
    "list_type": "a list in brackets",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
"""What a setting accepts, by the type of pydantic's error; other types have a message that people understand."""


def read_table(path: Path) -> Table:
    """The table of a TOML or JSON file. Raises LorasmithError with the line of a syntax error."""
    text = read_text(path)
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        command = "ai-toolkit runs with: lorasmith as ai-toolkit"
        if not AI_TOOLKIT.search(text):
            command = "Mix-of-Show runs with: lorasmith as train_edlora -opt"
        raise LorasmithError(f"{path}: is YAML, and a config is TOML or JSON; a file of {command} {path}")
    return parse_json(text, path) if suffix == ".json" else parse_toml(text, path)


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
                items = cast("list[Any]", node)
                node = items[list_index(parent, items, assignment)]
            else:
                node = cast(Table, node).setdefault(parent, {})
            if not isinstance(node, dict | list):
                raise LorasmithError(f'override "{assignment}": "{parent}" holds a plain value, not a table')
        value = read_value(text.strip())
        if isinstance(node, list):
            node[list_index(last, cast("list[Any]", node), assignment)] = value
        else:
            node[last] = value
    return result


def list_index(text: str, items: list[Any], assignment: str) -> int:
    """The index that a part of a dotted key is, where the key leads into a list."""
    if not text.isdecimal() or int(text) >= len(items):
        count = f"the list has {len(items)}, counted from 0"
        raise LorasmithError(f'override "{assignment}": "{text}" does not name an item of a list; {count}')
    return int(text)


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
        settings = model.model_validate(table)
    except ValidationError as error:
        raise ConfigError(problems_of(error, model), source) from None
    broken = list(find_broken_texts(settings.model_dump(mode="python")))
    if broken:
        raise ConfigError(broken, source)
    return settings


def find_broken_texts(value: Any, where: str = "") -> Iterator[Problem]:
    """Texts that cannot be what was meant: those that are not valid Unicode, and paths in which a backslash has become
    an escape (in TOML, `"C:\\temp"` has a tab and no backslash)."""
    if isinstance(value, dict):
        for key, inner in cast(Table, value).items():
            yield from find_broken_texts(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(cast("list[Any]", value)):
            yield from find_broken_texts(inner, f"{where}.{i}")
    elif isinstance(value, Path | str):
        text = str(value)
        if SURROGATE.search(text):
            yield Problem(where, describe_surrogate(text))
        elif isinstance(value, str) and not DRIVE.match(value):
            return
        # a folder whose name really has such a character is left alone
        elif ESCAPED.search(text) and not exists(Path(text)):
            yield Problem(where, f"found {quote(text)}, a path with a control character in it", "", WINDOWS_PATHS)


def exists(path: Path) -> bool:
    """Whether there is a file or folder. A path that no system can have is none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def problems_of(error: ValidationError, model: type[BaseModel], prefix: Location = ()) -> list[Problem]:
    """pydantic's errors as problems; those inside components, which validate themselves, are unpacked.

    `prefix`: where `model` is in the whole config.
    """
    problems: list[Problem] = []
    listed: set[Location] = set()
    for details in error.errors(include_url=False):
        location: Location = details["loc"]
        context = details.get("ctx", {})
        if details["type"] == "component_fields":
            problems += problems_of(context["inner"], context["of"], (*prefix, *location))
            continue
        if details["type"] == "extra_forbidden":
            problem = describe_unknown_key(location, model, prefix)
            # the keys of a table are listed once, however many unknown ones it has
            if location[:-1] in listed:
                problem = replace(problem, allowed="")
            elif problem.allowed:
                listed.add(location[:-1])
        else:
            location = config_location(model, location)
            problem = describe(dict(details), dotted((*prefix, *location)))
        problems.append(problem)
    return join_alternatives(problems)


def dotted(location: Location) -> str:
    return ".".join(str(part) for part in location)


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


def describe(details: Table, where: str) -> Problem:
    """One of pydantic's errors as a problem."""
    error_type, context = details["type"], details.get("ctx", {})
    if error_type == "missing":
        return Problem(where, "missing; it has no default", "", "add it")
    if error_type == "component_kind":
        return Problem(where, details["msg"], context["choices"], context["hint"])
    value = details.get("input")
    if error_type == "value_error":
        # the check of a whole table, or of a value, which says what it found
        message = details["msg"].removeprefix("Value error, ")
        return Problem(where, message) if isinstance(value, dict) else Problem(where, describe_value(value), message)
    allowed = ALLOWED.get(error_type) or details["msg"].removeprefix("Input should be ")
    advice = ""
    if error_type == "literal_error" and isinstance(value, str):
        advice = did_you_mean(value, re.findall(r"'([^']*)'", context["expected"]))
    return Problem(where, describe_value(value), allowed, advice)


def describe_value(value: Any) -> str:
    """A value as an error message repeats it: short ones as in TOML, tables only by name."""
    if value is None:
        return "found nothing"
    if isinstance(value, dict):
        return "found a table"
    if isinstance(value, list | tuple) and any(isinstance(item, dict) for item in cast("list[Any]", value)):
        return "found a list of tables"
    text = inline(value)
    return f"found {text}" if len(text) < MAX_VALUE_WIDTH else f"found {text[:MAX_VALUE_WIDTH]} ..."


def describe_unknown_key(location: Location, model: type[BaseModel], prefix: Location = ()) -> Problem:
    """A key that the table has no field for, with the place of a field of this name, or the most similar field."""
    *parents, last = location
    key = str(last)
    where = dotted((*prefix, *location))
    table = model_at(model, tuple(parents))
    fields = [] if table is None else list(table.model_fields)
    # what other trainers call one of the fields says more than a similar word
    other_names: Mapping[str, str] = getattr(table, "other_names", {})
    renamed = other_names.get(key)
    if renamed is not None:
        return Problem(where, UNKNOWN_KEY, "", f"write {dotted((*prefix, *parents, renamed))}")
    elsewhere = [] if prefix else places_of(key, model)
    if elsewhere:
        return Problem(where, UNKNOWN_KEY, "", f"write {' or '.join(elsewhere[:2])}")
    advice = did_you_mean(key, fields)
    return Problem(where, UNKNOWN_KEY, "" if advice else ", ".join(sorted(fields)), advice)


def places_of(key: str, model: type[BaseModel], prefix: str = "", depth: int = 3) -> list[str]:
    """Dotted keys of the fields called `key` in the tables of a model; of a component, those of its default kind."""
    places: list[str] = []
    for name, field in model.model_fields.items():
        if name == key and prefix:
            places.append(f"{prefix}{name}")
        is_list = "tuple" in str(field.annotation)
        inner = model_in(field.annotation)
        default = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, BaseModel):
            inner = type(default)
        # of lists of tables, the index is not known
        if inner is not None and not is_list and depth > 1:
            places += places_of(key, inner, f"{prefix}{name}.", depth - 1)
    return places


def model_at(model: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """The nested model at `location`, as far as annotations tell; None if the location is not in the model."""
    current = model
    for part in location:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part)
        if field is None:
            return None
        current = model_in(field.annotation) or current
    return current


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
