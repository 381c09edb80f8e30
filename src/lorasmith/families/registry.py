"""The table of model families. A folder of this package enters itself by a module `loader.py` that calls `register`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch

from lorasmith.core.errors import LorasmithError
from lorasmith.families.base import Family
from lorasmith.families.folders import import_of_each, no_such_family
from lorasmith.families.source import Source


class NotRecognisedError(LorasmithError):
    """A folder or file is not a base model of this family. Without a message, nothing suggests that it
    might be one."""


class FamilyLoader(ABC):
    """How the models of one folder of families are recognised, opened and loaded."""

    kinds: ClassVar[tuple[str, ...]]
    """The families that the folder implements, as configs and files name them."""
    hub_weights: ClassVar[Mapping[str, str]]
    """What to fetch from a hub repository: folder (fnmatch) to the stem of its weight files; the denoiser first."""

    @abstractmethod
    def open_folder(self, name: str, path: Path, kind: str | None) -> Source:
        """A diffusers folder. `kind` overrides detection. Raises NotRecognisedError if it is of another family, and
        LorasmithError if it is of this family but cannot be used."""

    @abstractmethod
    def open_file(self, name: str, path: Path, kind: str | None) -> Source:
        """A `.safetensors` file in the original layout. `kind` and errors as in `open_folder`."""

    @abstractmethod
    def replace_vae(self, base: Source, path: Path) -> Source:
        """`base` with the VAE at `path`. Raises LorasmithError if there is none or it does not fit."""

    def with_parts(self, base: Source, paths: Sequence[Path]) -> Source:
        """`base` with the parts that it lacks from these files and folders. Raises LorasmithError if it lacks none, or
        if there is no such part in one of them."""
        raise LorasmithError(
            f"base_parts: {base.name} is a model of {base.kind}, which has its text encoders in its own file or "
            "folder. Leave base_parts out; another VAE is named with `vae`"
        )

    @abstractmethod
    def load(self, source: Source, dtype: torch.dtype | None, device: torch.device | str) -> Family:
        """The model. `dtype` None: the family's default for a model of this size."""


_LOADERS: list[FamilyLoader] = []


def register(loader: FamilyLoader) -> None:
    """Enter a loader in the table; called once by each `loader.py`."""
    _LOADERS.append(loader)


def loaders() -> list[FamilyLoader]:
    """All loaders, after importing `loader.py` of every folder that has one."""
    import_of_each("loader")
    return list(_LOADERS)


def loader_of(kind: str) -> FamilyLoader:
    """The loader of a family. Raises LorasmithError if there is no such family."""
    by_kind = {known: loader for loader in loaders() for known in loader.kinds}
    if kind not in by_kind:
        raise no_such_family(kind, by_kind)
    return by_kind[kind]


def open_source(name: str, path: Path, kind: str | None = None) -> Source:
    """The base model at `path`, a folder or a file, as the first family that recognises it opens it.

    `name`: as the user wrote it; `kind`: the family, if the user named it. Raises LorasmithError with the reason of
    each family if none recognises it.
    """
    reasons: list[str] = []
    for loader in loaders() if kind is None else [loader_of(kind)]:
        try:
            return _open(loader, name, path, kind)
        except NotRecognisedError as error:
            reasons += [str(error)] if str(error) else []
    if kind is None:
        raise LorasmithError("\n".join(dict.fromkeys(reasons)) or f"{name}: no family of models recognises it")
    reason = f" ({reasons[0]})" if reasons else ""
    raise LorasmithError(f"{name}: it is no model of {kind}, as which it was named{_recognised_as(name, path)}{reason}")


def _open(loader: FamilyLoader, name: str, path: Path, kind: str | None) -> Source:
    opener: Callable[[str, Path, str | None], Source]
    opener = loader.open_folder if path.is_dir() else loader.open_file
    return opener(name, path, kind)


def _recognised_as(name: str, path: Path) -> str:
    """Which family a base is of, for the error about another one; empty if none recognises it."""
    for loader in loaders():
        try:
            return f"; it is a model of {_open(loader, name, path, None).kind}"
        except LorasmithError:
            continue
    return ""
