"""The table of the names that families give their layers in LoRA files. A folder of this package enters itself by a
module `file_names.py` that calls `register`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import ClassVar

from lorasmith.adapters.base import LayerSpec
from lorasmith.families.folders import import_of_each, no_such_family
from lorasmith.families.place import Place
from lorasmith.families.source import Source


class FileNames(ABC):
    """The names of one model's layers in files; see `LayerNames`."""

    @abstractmethod
    def kohya_name(self, layer: str) -> str: ...

    @abstractmethod
    def from_kohya(self, name: str) -> str | None: ...

    @abstractmethod
    def peft_name(self, layer: str) -> str: ...

    def kohya_part(self, layer: str) -> Place | None:
        return None

    def kohya_parts(self, name: str) -> Mapping[str, Place]:
        return {}


class FamilyFileNames(ABC):
    """The names of the layers of all models of some families, and the layers of the published ones."""

    kinds: ClassVar[tuple[str, ...]]
    """The families, as configs and files name them."""

    @abstractmethod
    def published_layers(self, kind: str, widths: Collection[int]) -> tuple[LayerSpec, ...]:
        """The layers of the published models of a kind; where these differ in size, of those that fit a file with
        tensors of these widths."""

    @abstractmethod
    def layers_of(self, source: Source) -> tuple[LayerSpec, ...]:
        """The layers of a base on disk, without those of text encoders that it lacks."""

    def variant(self, source: Source) -> str:
        """Which of the family's models a base is, as sd-scripts writes it into metadata; empty where all have one
        name."""
        return ""

    @abstractmethod
    def names(self, kind: str, layers: Collection[str], source: Source | None) -> FileNames:
        """The names of these layers. `source`: the base; None for the published models."""


_FAMILIES: list[FamilyFileNames] = []


def register(family: FamilyFileNames) -> None:
    """Enter a family in the table; called once by each `file_names.py`."""
    _FAMILIES.append(family)


def file_names_of(kind: str) -> FamilyFileNames:
    """The names of a family's layers. Raises LorasmithError if no family is called so."""
    import_of_each("file_names")
    known: list[str] = []
    for family in _FAMILIES:
        if kind in family.kinds:
            return family
        known += family.kinds
    raise no_such_family(kind, known)


def variant_of(source: Source) -> str:
    """Which of its family's models a base is (`FamilyFileNames.variant`)."""
    return file_names_of(source.kind).variant(source)
