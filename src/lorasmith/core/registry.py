"""Components: typed settings that do their own work and are registered by being defined.

An *extension point* (root) is a class that names itself with `root=`:

    class Loss(Component, root="loss"):
        @abstractmethod
        def __call__(self, output, target, ...): ...

A *kind* is a subclass with a `kind` literal. Defining the class registers it; nothing else has to be called:

    class Huber(Loss):
        kind: Literal["huber"] = "huber"
        c: float = 0.1

A config field of type `Loss` accepts an instance, the bare name `"huber"`, or a table `{kind = "huber", c = 0.2}` (a
root with a `default` kind also accepts a table without `kind`).

How a kind is found: a root lives in `<folder>/base.py` or `<folder>/__init__.py`, and its built-in kinds in the other
files of that folder. `registered(root)` imports that folder once, so that every class in it has been defined, and
returns the table that the classes have entered themselves in. This happens when a value is checked, not when a field is
declared, so plug-ins (`load_plugins`) can be imported later than the config classes.
"""

from __future__ import annotations

import importlib
import pkgutil
import traceback
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Self, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic_core import PydanticCustomError, core_schema

from lorasmith.core.errors import LorasmithError, did_you_mean

C = TypeVar("C", bound="Component")

_ROOTS: dict[str, type[Component]] = {}
"""Every extension point that has been defined, by its name."""
_IMPORTED: set[type[Component]] = set()
"""The extension points whose folders have been imported."""


class Config(BaseModel):
    """A frozen record of settings; an unknown key is an error.

    Where a field is a component with a default, a table without `kind` means the kind of the default:
    `adapter.rank = 8`.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, protected_namespaces=(), allow_inf_nan=False
    )
    other_names: ClassVar[Mapping[str, str]] = {}
    """What other trainers call a field, to its name here; the error on an unknown key repeats it."""

    @model_validator(mode="before")
    @classmethod
    def _fill_default_kinds(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        filled = dict(cast("dict[str, Any]", value))
        for name, field in cls.model_fields.items():
            # only tables are concerned: a bare name is a kind, and an instance has one
            table: Any = filled.get(name)
            if not isinstance(table, dict) or "kind" in table:
                continue
            if is_extension_point(field.annotation) and field.default_factory is not None:
                default = field.get_default(call_default_factory=True, validated_data={})
                filled[name] = {"kind": default.kind, **table}
        return filled


class Component(Config):
    """Settings with behaviour: an extension point, or a kind of one. See the module's docstring."""

    _root: ClassVar[type[Component] | None] = None
    """The extension point that this class belongs to, which is itself for a root."""
    _root_name: ClassVar[str] = ""
    _default_kind: ClassVar[str] = ""
    _kinds: ClassVar[dict[str, type[Component]]] = {}
    """The kinds of the extension point by name; one dictionary, which all kinds inherit from their root."""

    def __init_subclass__(cls, root: str = "", default: str = "", **kwargs: Any) -> None:
        """Make a class with `root=` an extension point. `default`: the kind of a table without `kind`."""
        super().__init_subclass__(**kwargs)
        if root:
            cls._root, cls._root_name, cls._default_kind, cls._kinds = cls, root, default, {}
            _ROOTS[root] = cls

    @classmethod
    def __pydantic_init_subclass__(cls, root: str = "", default: str = "", **kwargs: Any) -> None:
        """Register a class with a `kind` literal. pydantic calls this when the fields of the class are known."""
        super().__pydantic_init_subclass__(**kwargs)
        kind_field = cls.model_fields.get("kind")
        literals = get_args(kind_field.annotation) if kind_field is not None else ()
        if root or not literals:
            return  # an extension point, or an abstract class between it and its kinds
        kind = str(literals[0])
        other = cls._kinds.get(kind)
        # the same class can be defined again when its module is reloaded
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(
                f'{cls._root_name} kind "{kind}" is defined twice: '
                f"{other.__module__}.{other.__qualname__} and {cls.__module__}.{cls.__qualname__}"
            )
        cls._kinds[kind] = cls

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Let a field whose type is an extension point accept every kind; a kind validates its own fields."""
        if not cls.is_root():
            return handler(source)

        def validate(value: Any) -> Component:
            return cls.from_value(value)

        def serialize(value: Component) -> dict[str, Any]:
            return value.model_dump()

        return core_schema.no_info_plain_validator_function(
            validate, serialization=core_schema.plain_serializer_function_ser_schema(serialize)
        )

    def imported_names(self) -> tuple[str, ...]:
        """Dotted paths of classes outside Lorasmith that this kind imports because its settings name them."""
        return ()

    @classmethod
    def is_root(cls) -> bool:
        """Whether this class is an extension point, not a kind of one."""
        return cls._root is cls

    @classmethod
    def from_value(cls, value: Any) -> Component:
        """The component that a config value names. Called on extension points only.

        The errors carry what `core.config.problems_of` needs to describe each problem inside.
        """
        if isinstance(value, cls):
            return value
        # a bare name and a table become a table with `kind`
        table: dict[str, Any] = {}
        if isinstance(value, dict):
            if cls._default_kind:
                table["kind"] = cls._default_kind
            table.update(cast("dict[str, Any]", value))
        elif isinstance(value, str):
            table["kind"] = value
        name = table.get("kind")
        kind = cls._kind_called(name)
        # pydantic would turn the errors of the kind's fields into one text, so they are passed on as objects
        try:
            return kind.model_validate(table)
        except ValidationError as error:
            context = {"count": error.error_count(), "inner": error, "of": kind}
            raise PydanticCustomError("component_fields", "{count} problems inside", context) from None

    @classmethod
    def _kind_called(cls, name: Any) -> type[Component]:
        """The kind of this extension point with a name. Raises PydanticCustomError if there is none."""
        kind = cls._built_in_kind(name) if isinstance(name, str) else None
        if kind is not None:
            return kind
        kinds = registered(cls)
        choices = ", ".join(sorted(kinds))
        if not isinstance(name, str):
            message = "expected a name or a table with `kind`, one of: {choices}"
            raise PydanticCustomError("component_shape", message, {"choices": choices})
        if name not in kinds:
            context: dict[str, Any] = {
                "root": cls._root_name,
                "found": name,
                "choices": choices,
                "hint": did_you_mean(name, kinds),
            }
            raise PydanticCustomError("component_kind", 'no {root} is called "{found}"', context)
        return kinds[name]

    @classmethod
    def _built_in_kind(cls, name: str) -> type[Component] | None:
        """The built-in kind with a name, if its file has this name, or if it is defined already. The other files of the
        folder are not imported, which can take long. None: look at all kinds."""
        package = cls.__module__.removesuffix(".base")
        folder = getattr(importlib.import_module(package), "__path__", [])
        if name in {module.name for module in pkgutil.iter_modules(folder)}:
            importlib.import_module(f"{package}.{name}")
        kind = cls._kinds.get(name)
        # a plug-in's kind is taken only beside all built-in ones, so that it cannot have the name of one of them
        is_built_in = kind is not None and f"{kind.__module__}.".startswith(f"{package}.")
        return kind if is_built_in else None

    @classmethod
    def registered_kinds(cls) -> dict[str, type[Self]]:
        """The kinds of this extension point, by name. Imports its folder the first time, so that all are there."""
        # marked before importing: a kind's module can itself ask for the kinds of its folder
        if cls not in _IMPORTED:
            _IMPORTED.add(cls)
            package = importlib.import_module(cls.__module__.removesuffix(".base"))
            for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
                importlib.import_module(f"{package.__name__}.{module.name}")
        return cast("dict[str, type[Self]]", dict(cls._kinds))


def is_extension_point(annotation: Any) -> bool:
    """Whether the type of a field is an extension point, so that the field accepts any kind of it."""
    return isinstance(annotation, type) and issubclass(annotation, Component) and annotation.is_root()


def registered(root: type[C]) -> dict[str, type[C]]:
    """The kinds of an extension point, by name: the built-in ones, and those of plug-ins imported so far."""
    return root.registered_kinds()


def roots() -> dict[str, type[Component]]:
    """Every extension point that has been imported, by name."""
    return dict(_ROOTS)


@cache
def installed_plugins() -> tuple[EntryPoint, ...]:
    """What installed packages offer. Found once in a process: it reads the metadata of every installed package."""
    return tuple(entry_points(group="lorasmith.plugins"))


def load_plugins(modules: Iterable[str] = ()) -> None:
    """Import third-party kinds: the entry-point group `lorasmith.plugins`, then the modules that a config names.

    Raises LorasmithError if one of these modules cannot be imported.
    """
    for entry in installed_plugins():
        entry.load()
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise LorasmithError(
                f'plugins: the module "{module}" cannot be imported ({error}); '
                "install it or put its folder on PYTHONPATH"
            ) from error
        except Exception as error:
            # the plug-in's own mistake: its author needs the line, not the way through Lorasmith to it
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise LorasmithError(
                f'plugins: the module "{module}" fails when it is imported: {type(error).__name__}: {error} '
                f"({frame.filename}, line {frame.lineno})"
            ) from error
