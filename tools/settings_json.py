"""Write the settings of a config as data for the form of the studio: `python -m tools.docs` does it with the reference.

The server of the studio imports no torch, and so cannot ask the classes themselves.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from lorasmith.core.registry import Component, registered
from lorasmith.training.config import TrainConfig
from tools.docs import about, comments, models_in, takes

TARGET = Path(__file__).parents[1] / "src" / "lorasmith" / "studio" / "static" / "settings.json"


def settings_json() -> str:
    """The whole file: one setting a line, so that changes can be read."""
    rows = [json.dumps(row, ensure_ascii=False) for row in settings(TrainConfig, "")]
    return "[\n" + ",\n".join(rows) + "\n]\n"


def settings(model: type[BaseModel], prefix: str, of: str = "") -> Iterator[dict[str, Any]]:
    """Each setting of a table and of the tables and kinds below it. `of`: the kind that has them, `adapter=lora`."""
    texts = comments(model)
    for name, field in model.model_fields.items():
        if name == "kind":
            continue
        key = f"{prefix}{name}"
        row = {"key": key, "takes": takes(field), "about": " ".join(texts.get(name, "").split())}
        row |= {"default": default_value(field), "input": input_kind(field), **({"of": of} if of else {})}
        inner = models_in(field.annotation)
        root = next((cls for cls in inner if issubclass(cls, Component) and cls._root is cls), None)
        is_list = is_tuple(field.annotation)
        if root is not None:
            yield from kinds_of(row, root, is_list)
        elif inner and not is_list:
            yield from settings(inner[0], f"{key}.", of)
        else:
            yield row


def kinds_of(row: dict[str, Any], root: type[Component], is_list: bool) -> Iterator[dict[str, Any]]:
    """A setting that is a kind, with the settings of each kind; those inside of another kind are written in TOML."""
    kinds = sorted(registered(root).items())
    described = [{"kind": kind, "about": about(cls)} for kind, cls in kinds]
    yield {**row, "kinds": described, "input": "toml" if is_list else "kind"}
    if is_list or "of" in row:
        return
    for kind, cls in kinds:
        yield from settings(cls, f"{row['key']}.", f"{row['key']}={kind}")


def is_tuple(annotation: Any) -> bool:
    """Whether a setting is a list or a table of values."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(is_tuple(inner) for inner in typing.get_args(annotation))
    return typing.get_origin(annotation) in (tuple, list, dict)


def input_kind(field: FieldInfo) -> Any:
    """How the form lets a setting be entered: `bool`, `number`, `text`, `lines` (a list of texts), a list of choices,
    or as it is written in TOML."""
    annotation = field.annotation
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType) and type(None) in arguments:
        rest = [inner for inner in arguments if inner is not type(None)]
        annotation = rest[0] if len(rest) == 1 else annotation
        arguments = typing.get_args(annotation)
    # a checked value is entered as the plain one
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = arguments[0]
        arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return list(arguments)
    if typing.get_origin(annotation) is tuple and arguments in ((str, Ellipsis), (Path, Ellipsis)):
        return "lines"
    return {bool: "bool", int: "number", float: "number", str: "text", Path: "text"}.get(annotation, "toml")


def default_value(field: FieldInfo) -> Any:
    """The default as JSON; null if there is none."""
    if field.default is PydanticUndefined and field.default_factory is None:
        return None
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, Component):
        return value.kind  # type: ignore[attr-defined]
    if isinstance(value, BaseModel):
        return None
    if isinstance(value, tuple | dict) and any(isinstance(each, BaseModel) for each in value):
        return [each.model_dump(mode="json") for each in value]  # type: ignore[union-attr]
    return json.loads(json.dumps(value, default=str))
