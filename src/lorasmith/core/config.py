"""Reading a config: TOML plus `key=value` overrides into one typed record, with all problems at once."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from lorasmith.core.errors import ConfigError, LorasmithError, Problem, did_you_mean

M = TypeVar("M", bound=BaseModel)
LONG = 120
"""Longer lists of tables are written over several lines."""


def read_table(path: Path) -> dict[str, Any]:
    """The table of a TOML or JSON file. Raises LorasmithError with the line of a syntax error."""
    if not path.is_file():
        raise LorasmithError(f"{path}: no such file")
    text = path.read_text(encoding="utf-8-sig")
    try:
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise LorasmithError(f"{path}: not valid {path.suffix[1:].upper() or 'TOML'}: {error}") from None


def override(table: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """A copy of `table` with dotted `key=value` assignments applied; values are read as TOML, else as plain text."""
    result = json.loads(json.dumps(table, default=str))
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign:
            raise LorasmithError(f'"{assignment}" is not an override; write key=value, for example adapter.rank=8')
        *parents, last = key.strip().split(".")
        node: Any = result
        for parent in parents:
            node = node[int(parent)] if isinstance(node, list) else node.setdefault(parent, {})
            if isinstance(node, str):
                raise LorasmithError(f'override "{assignment}": "{parent}" holds a plain value, not a table')
        value = _toml_value(text.strip())
        if isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value
    return result


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def validate(model: type[M], table: dict[str, Any], source: str = "") -> M:
    """`table` as `model`; raises ConfigError with every problem."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        raise ConfigError(problems_of(error, model), source) from None


def problems_of(error: ValidationError, model: type[BaseModel], prefix: tuple[Any, ...] = ()) -> list[Problem]:
    """pydantic's errors in our words, with those inside components unfolded."""
    problems: list[Problem] = []
    for item in error.errors(include_url=False):
        place = (*prefix, *item["loc"])
        context = item.get("ctx", {})
        if item["type"] == "component_fields":
            problems += problems_of(context["inner"], context["of"], place)
            continue
        if item["type"] != "extra_forbidden":
            place = (*prefix, *_keys_of(model, item["loc"]))
        problems.append(_problem(item, ".".join(str(p) for p in place), context, model))
    return _joined(problems)


def _keys_of(model: type[BaseModel], loc: tuple[Any, ...]) -> tuple[Any, ...]:
    """The part of a place that a config has: pydantic adds the alternative of a union that it tried."""
    current: Any = model
    for i, part in enumerate(loc):
        if isinstance(part, int):
            continue
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            return loc[:i]
        current = _model_in(field.annotation)
    return loc


def _joined(problems: list[Problem]) -> list[Problem]:
    """What was tried in several ways at one place, as one problem."""
    found: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        key = (problem.where, problem.found)
        earlier = found.get(key)
        if earlier is not None and problem.allowed not in earlier.allowed:
            problem = replace(earlier, allowed=f"{earlier.allowed}; or: {problem.allowed}")
        found[key] = problem
    return list(found.values())


def _problem(item: Any, where: str, context: dict[str, Any], model: type[BaseModel]) -> Problem:
    kind, value = item["type"], item.get("input")
    if kind == "extra_forbidden":
        fields = _fields_at(model, item["loc"][:-1])
        hint = did_you_mean(str(item["loc"][-1]), fields)
        return Problem(where, "unknown key", ", ".join(sorted(fields)), hint)
    if kind == "missing":
        return Problem(where, "missing; it has no default", "", "add it")
    if kind == "component_kind":
        return Problem(where, item["msg"], context["choices"], context["hint"])
    message = item["msg"].removeprefix("Value error, ")
    return Problem(where, f"found {value!r}" if len(repr(value)) < 120 else "found a value of the wrong form", message)


def _fields_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """Names of the fields of the (nested) model at `loc`, as far as annotations tell."""
    current: Any = model
    for part in loc:
        if isinstance(part, int):
            continue
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            return []
        current = _model_in(field.annotation) or current
    return list(getattr(current, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None


def to_toml(table: dict[str, Any]) -> str:
    """A table as TOML: plain values first, then sub-tables; None is left out. `tomllib.loads` is its inverse."""
    lines: list[str] = []
    _write_table(table, "", lines)
    return "\n".join(lines).strip() + "\n"


def _write_table(table: dict[str, Any], prefix: str, lines: list[str]) -> None:
    for key, value in table.items():
        if value is not None and not isinstance(value, dict) and not _is_long(value):
            lines.append(f"{_key(key)} = {_inline(value)}")
    for key, value in table.items():
        for inner in value if _is_long(value) else [value] if isinstance(value, dict) else []:
            head = f"[{prefix}{_key(key)}]"
            lines += ["", f"[{head}]" if _is_long(value) else head]
            _write_table(inner, f"{prefix}{_key(key)}.", lines)


def _is_long(value: Any) -> bool:
    """Whether a list of tables is written with a head for each."""
    tables = isinstance(value, list | tuple) and value and all(isinstance(item, dict) for item in value)
    return bool(tables) and len(_inline(value)) > LONG


def _key(key: Any) -> str:
    text = str(key)
    return text if text.isascii() and text.replace("-", "").replace("_", "").isalnum() else _quoted(text)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _inline(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return {float("inf"): "inf", float("-inf"): "-inf"}.get(value, "nan" if value != value else repr(value))
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {_inline(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_inline(v) for v in value) + "]"
    return _quoted(str(value))
