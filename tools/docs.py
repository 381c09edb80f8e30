"""Write `docs/reference.md` from the code: every command, every key of a config, every kind. Also writes the page of
the Python functions (tools/api_page.py) and the settings for the form of the studio (tools/settings_json.py).

python -m tools.docs           # write
python -m tools.docs --check   # exit 1 if what is there is not current
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from lorasmith.cli.main import app
from lorasmith.core.registry import Component, registered, roots
from lorasmith.data import captioners, maskers  # noqa: F401  (kinds that no config of training names, as the next)
from lorasmith.evaluation import clip, judge_scorer  # noqa: F401
from lorasmith.formats import privacy
from lorasmith.training import executors  # noqa: F401
from lorasmith.training.config import TrainConfig
from tools.markdown import fold

TARGET = Path(__file__).parents[1] / "docs" / "reference.md"
HEAD = """# Reference

Written by `make docs` from the code; a test fails when it is not current. Explanations with examples are in the
[tutorial](tutorial.md) and the [how-to](howto.md).
"""


def reference() -> str:
    """The whole page."""
    parts = [HEAD, commands(), python(), file_metadata(), "## The config", config_intro(), *sections()]
    return fold("\n\n".join(part.strip() for part in parts) + "\n")


def commands() -> str:
    """Each command with its help, arguments and options."""
    group: Any = typer.main.get_command(app)
    parts = ["## Commands", "Exit codes: 0 done, 1 a mistake that the message explains, 2 wrong usage, 130 stopped."]
    for name, command in sorted(all_commands(group)):
        rows = [row(f"`{words(p)}`", p.help or "") for p in command.params if not getattr(p, "hidden", False)]
        parts += [f"### lorasmith {name}", with_command_lines(command.help), table(("", "meaning"), rows)]
    return "\n\n".join(parts)


def with_command_lines(text: str) -> str:
    """The help of a command with its paragraphs of command lines as code."""
    paragraphs = text.strip().split("\n\n")
    return "\n\n".join(f"    {p.strip()}" if p.startswith("lorasmith ") else p for p in paragraphs)


def all_commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Each command of a group and of the groups in it, by its name: `train`, `queue add`."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from all_commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def words(parameter: Any) -> str:
    """How a parameter is written on the command line."""
    names = [o for o in parameter.opts if o.startswith("-")]
    if not names:
        return parameter.metavar or parameter.human_readable_name
    value = "" if getattr(parameter, "is_flag", False) else f" {parameter.metavar or parameter.name.upper()}"
    return f"{', '.join(sorted(names, key=len, reverse=True))}{value}"


def python() -> str:
    """Where the public functions are."""
    return (
        "## Python\n\nThe same commands as functions of `lorasmith`, each with an example: [Python functions](api.md)."
    )


def file_metadata() -> str:
    """Which metadata a file of each level has."""
    needed = [key for key in sorted(privacy.NEEDED - privacy.NOT_MINIMAL) if not key.startswith("modelspec.")]
    public_texts = sorted(privacy.PUBLIC_TEXTS - privacy.NEEDED)
    lists = [
        (needed, "yes", "yes", "yes"),
        (sorted(privacy.NOT_MINIMAL), "yes", "", "yes"),
        (sorted(key for key in privacy.NEEDED if key.startswith("modelspec.")), "yes", "yes", "yes"),
        (["all other `modelspec.*`: title, date, trigger words, `[metadata]`"], "yes", "yes", ""),
        (
            [*public_texts, "other `ss_*` that are a number or true or false"],
            "yes",
            "",
            "",
        ),
        (sorted(privacy.PUBLIC_KEYS), "yes", "", ""),
        (["other `ss_*`: `ss_tag_frequency`, `ss_dataset_dirs` ...", "all other keys"], "", "", ""),
    ]
    rows = []
    for keys, *levels in lists:
        names = ", ".join(key if "`" in key or " " in key else f"`{key}`" for key in keys)
        rows.append(row(names, "yes", *levels))
    intro = (
        "What the metadata of a file contain, by `export.metadata` and `lorasmith strip --to`. An absolute path is "
        "never written, only its last part. In the public `lorasmith.config`, image folders are called `images`, and "
        "fallback captions, caption folders, masks, templates, prompts, and the sections "
        f"{', '.join(f'`{name}`' for name in sorted(privacy.PRIVATE_SECTIONS - {'output'}))} are left out."
    )
    return "\n\n".join(["## Metadata of LoRA files", intro, table(("key", "full", "public", "minimal", "none"), rows)])


def config_intro() -> str:
    return (
        "A config is TOML (or JSON with the same keys). Every key can be replaced on the command line: "
        "`lorasmith train my.toml adapter.rank=8 optimizer.lr=5e-4`. Paths start at the current folder. Where a key "
        'takes a *kind*, write its name (`lr_schedule = "cosine"`) or a table '
        '(`lr_schedule = {kind = "cosine", warmup = 0.05}`); lists of kinds take several.'
    )


def sections() -> Iterator[str]:
    """The keys of the top level, of each table below it, and every kind of every extension point."""
    tables: dict[str, type[BaseModel]] = {}
    places: dict[type[Component], list[str]] = {}
    walk(TrainConfig, "", tables, places)
    yield f"### Top level\n\n{about(TrainConfig)}\n\n{fields(TrainConfig)}"
    for key, model in tables.items():
        yield f"### `{key}`\n\n{about(model)}\n\n{fields(model)}"
    yield "## Kinds"
    ours = {name: root for name, root in roots().items() if root.__module__.startswith("lorasmith.")}
    for name, root in sorted(ours.items()):
        yield kinds(name, root, places.get(root, []))


def walk(
    model: type[BaseModel], place: str, tables: dict[str, type[BaseModel]], places: dict[type[Component], list[str]]
) -> None:
    """Collect the tables below a model by their keys, and the keys at which each extension point stands."""
    for name, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            key = f"{place}{name}"
            if issubclass(inner, Component) and inner._root is inner:
                new = inner not in places
                # kinds of one extension point can have the same field
                if key not in places.setdefault(inner, []):
                    places[inner].append(key)
                for kind in registered(inner).values() if new else ():
                    walk(kind, f"{key}.", tables, places)
            elif inner not in tables.values():
                tables[f"[[{key}]]" if typing.get_origin(field.annotation) is tuple else f"[{key}]"] = inner
                walk(inner, f"{key}.", tables, places)


def kinds(name: str, root: type[Component], keys: list[str]) -> str:
    """One extension point: where it stands and each kind with its keys."""
    where = f"In {', '.join(f'`{k}`' for k in keys)}. " if keys else ""
    parts = [f"### {name.capitalize()}", f"{where}{about(root)}"]
    shared = [f for f in root.model_fields if f != "kind"]
    if shared:
        parts += ["All of them take:", fields(root)]
    for kind, cls in sorted(registered(root).items()):
        own = {n for n in cls.model_fields if n != "kind"} - set(shared)
        listed = fields(cls, own) if own else ""
        parts.append(f"**`{kind}`** {about(cls)}" + (f"\n\n{listed}" if listed else ""))
    return "\n\n".join(parts)


def about(model: Any) -> str:
    """The docstring of a class (its own or none) or function, as paragraphs."""
    own = vars(model).get("__doc__") if isinstance(model, type) else model.__doc__
    text = inspect.cleandoc(own or "")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def fields(model: type[BaseModel], only: set[str] | None = None) -> str:
    """The keys of a model as a table: key, what it takes, default, meaning."""
    said = comments(model)
    rows = []
    for name, field in model.model_fields.items():
        if name == "kind" or (only is not None and name not in only):
            continue
        rows.append(row(f"`{name}`", takes(field), default(field), " ".join(said.get(name, "").split())))
    return table(("key", "takes", "default", "meaning"), rows)


def comments(model: type[BaseModel]) -> dict[str, str]:
    """The string under each field of a class and its bases, by field name."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not (issubclass(cls, BaseModel) and cls.__module__.split(".")[0] == "lorasmith"):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for line, after in zip(body.body, body.body[1:], strict=False):
            named = isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
            if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[line.target.id] = str(after.value.value)  # type: ignore[union-attr]
    return found


def takes(field: FieldInfo) -> str:
    """The type of a key in words, with its limits."""
    words = {"Ge": "≥", "Gt": ">", "Le": "≤", "Lt": "<"}
    limits = [
        f"{words[type(m).__name__]} {next(iter(vars_of(m))):g}" for m in field.metadata if type(m).__name__ in words
    ]
    return ", ".join([type_word(field.annotation), *limits])


def vars_of(limit: Any) -> list[Any]:
    return [getattr(limit, name) for name in ("ge", "gt", "le", "lt") if hasattr(limit, name)]


PLAIN_TYPES = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}


def type_word(annotation: Any) -> str:
    """`text`, `number`, `"a" or "b"`, `list of text` ..."""
    if typing.get_origin(annotation) is typing.Annotated:
        return type_word(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is not None:
        return generic_type_word(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Component) and annotation._root is annotation:
        return annotation._root_name
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return PLAIN_TYPES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def generic_type_word(annotation: Any) -> str:
    """The same for types with arguments: literals, unions, lists, tuples, tables."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_word(a) for a in arguments if a is not type(None)))
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"[{', '.join(type_word(a) for a in arguments)}]"
    if origin in (tuple, list, set, frozenset):
        return f"list of {type_word(arguments[0])}"
    if origin in (dict, types.MappingProxyType) or "Mapping" in str(origin):
        return "table"
    return str(annotation)


def default(field: FieldInfo) -> str:
    """The default as TOML would write it."""
    if field.default is PydanticUndefined and field.default_factory is None:
        return "**required**"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or (isinstance(value, tuple | dict) and not value) or value == "":
        return ""
    if isinstance(value, BaseModel):
        return f'`"{value.kind}"`' if isinstance(value, Component) else ""  # type: ignore[attr-defined]
    from lorasmith.core.config import inline

    plain = [v.model_dump() if isinstance(v, BaseModel) else v for v in value] if isinstance(value, tuple) else value
    return f"`{inline(plain)}`"


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation names, wherever in it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for argument in typing.get_args(annotation) for m in models_in(argument)]


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def table(names: tuple[str, ...], rows: list[str]) -> str:
    return "\n".join([row(*names), row(*["---"] * len(names)), *rows]) if rows else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is not current")
    from tools import api_page, settings_json

    pages = {
        api_page.TARGET: api_page.api_page(),
        TARGET: reference(),
        settings_json.TARGET: settings_json.settings_json(),
    }
    if parser.parse_args().check:
        old = [path.name for path, text in pages.items() if not is_current(path, text)]
        sys.exit(f"{', '.join(old)} is not current; run: make docs" if old else 0)
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")


def is_current(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    main()
