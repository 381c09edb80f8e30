"""Components: typed config records that do their own work and register by being defined.

A *root* is an extension point (`Loss`, `Noise`, `AdapterConfig` ...):

    class Loss(Component, root="loss"):
        @abstractmethod
        def __call__(self, output, target, ...): ...

A *kind* is a subclass with a `kind` literal; defining it registers it:

    class Huber(Loss):
        kind: Literal["huber"] = "huber"
        c: float = 0.1

A field of type `Loss` accepts an instance, the bare name `"huber"`, or a table `{kind = "huber", c = 0.2}` (a root with
a `default` kind also a table without `kind`). Kinds are
looked up when a value is checked, not when the field is declared, so plug-ins may come later.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic_core import PydanticCustomError, core_schema

from lorasmith.core.errors import LorasmithError, did_you_mean

C = TypeVar("C", bound="Component")

_ROOTS: dict[str, type[Component]] = {}


class Config(BaseModel):
    """A frozen record; an unknown key is an error.

    A table without `kind`, where a component stands that has a default, means the default's kind: `adapter.rank = 8`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        filled = dict(value)
        for name, field in cls.model_fields.items():
            table = value.get(name)
            if isinstance(table, dict) and "kind" not in table and _is_root(field.annotation) and field.default_factory:
                filled[name] = {"kind": field.get_default(call_default_factory=True, validated_data={}).kind, **table}
        return filled


def _is_root(annotation: Any) -> bool:
    """Whether a field takes any kind of an extension point."""
    return isinstance(annotation, type) and issubclass(annotation, Component) and annotation._root is annotation


class Component(Config):
    """A config record with behaviour. See the module's text for roots and kinds."""

    _root: ClassVar[type[Component] | None] = None
    _root_name: ClassVar[str] = ""
    _default: ClassVar[str] = ""
    _kinds: ClassVar[dict[str, type[Component]]] = {}

    def __init_subclass__(cls, root: str = "", default: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if root:
            cls._root, cls._root_name, cls._default, cls._kinds = cls, root, default, {}
            _ROOTS[root] = cls

    @classmethod
    def __pydantic_init_subclass__(cls, root: str = "", default: str = "", **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if root:
            return
        field = cls.model_fields.get("kind")
        kinds = get_args(field.annotation) if field is not None else ()
        if not kinds:
            return  # an abstract step between a root and its kinds
        kind = str(kinds[0])
        other = cls._kinds.get(kind)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(
                f'{cls._root_name} kind "{kind}" is defined twice: '
                f"{other.__module__}.{other.__qualname__} and {cls.__module__}.{cls.__qualname__}"
            )
        cls._kinds[kind] = cls

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        if cls._root is not cls:
            return handler(source)
        return core_schema.no_info_plain_validator_function(
            lambda value: _choose(cls, value),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value.model_dump()),
        )


def _choose(root: type[Component], value: Any) -> Component:
    """The component that a config value names; errors carry the inner problems for `problems_of`."""
    if isinstance(value, root):
        return value
    table = {"kind": value} if isinstance(value, str) else value
    if isinstance(table, dict) and root._default:
        table = {"kind": root._default, **table}
    kinds = registered(root)
    if not isinstance(table, dict) or not isinstance(table.get("kind"), str):
        raise PydanticCustomError(
            "component_shape",
            "expected a name or a table with `kind`, one of: {choices}",
            {"choices": ", ".join(sorted(kinds))},
        )
    chosen = kinds.get(table["kind"])
    if chosen is None:
        raise PydanticCustomError(
            "component_kind",
            'no {root} is called "{found}"',
            {
                "root": root._root_name,
                "found": table["kind"],
                "choices": ", ".join(sorted(kinds)),
                "hint": did_you_mean(table["kind"], kinds),
            },
        )
    try:
        return chosen.model_validate(table)
    except ValidationError as error:
        raise PydanticCustomError(
            "component_fields", "{count} problems inside", {"count": error.error_count(), "inner": error, "of": chosen}
        ) from None


def registered(root: type[C]) -> dict[str, type[C]]:
    """Kind name to class, for one root; its folder is scanned first, so that all built-in kinds are there."""
    _scan(root)
    return dict(root._kinds)  # type: ignore[arg-type]


def roots() -> dict[str, type[Component]]:
    """Every extension point that has been imported, by name."""
    return dict(_ROOTS)


_SCANNED: set[type[Component]] = set()


def _scan(root: type[Component]) -> None:
    """Import the modules beside the root's own, whose file is `<folder>/base.py` or `<folder>/__init__.py`."""
    if root in _SCANNED:
        return
    _SCANNED.add(root)
    name = root.__module__
    package = importlib.import_module(name if name.rsplit(".", 1)[-1] != "base" else name.rsplit(".", 1)[0])
    for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
        importlib.import_module(f"{package.__name__}.{module.name}")


def load_plugins(modules: Iterator[str] | list[str] | tuple[str, ...] = ()) -> None:
    """Import third-party kinds: the entry-point group `lorasmith.plugins`, then the modules that a config names.

    Raises LorasmithError if one cannot be imported.
    """
    for entry in entry_points(group="lorasmith.plugins"):
        entry.load()
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise LorasmithError(
                f'plugins: the module "{module}" cannot be imported ({error}); '
                "install it or put its folder on PYTHONPATH"
            ) from error
