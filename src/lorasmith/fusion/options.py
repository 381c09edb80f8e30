"""Fusing and refitting as the Python API is asked for them: settings by name, defaults that depend on the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from lorasmith.core.progress import Progress
from lorasmith.families.resolve import find
from lorasmith.files.lora import OutputFile
from lorasmith.fusion import ConceptUse, FuseReport, FuseSettings, fuse_files, read_list
from lorasmith.fusion.refit import RefitSettings
from lorasmith.fusion.refit_files import RefitReport, refit_file

LARGEST = 256
"""Pixels at which a refit compares predictions."""


class FuseOptions(TypedDict, total=False):
    """How to fuse; see `lorasmith.fusion.FuseSettings`. `size` of the pictures that gather inputs: the base's own."""

    method: str
    rank: int | None
    prompts: Sequence[str] | None
    preserve: Sequence[str] | None
    ridge: float
    steps: int
    seeds: int
    size: int | None
    device: str
    precision: str | None


class RefitOptions(TypedDict, total=False):
    """How to refit; see `lorasmith.fusion.refit.RefitSettings`. `prompts` and `preserve` come beside the built-in; the
    last three say how the file is written."""

    rank: int | None
    names: Sequence[str] | None
    prompts: Sequence[str] | None
    preserve: Sequence[str] | None
    ridge: float
    clip_skip: int | None
    device: str
    precision: str | None
    output: Path | str | None
    dtype: str | None
    overwrite: bool


def fuse(
    files: Sequence[Path | str],
    base: Path | str,
    output: OutputFile,
    settings: Mapping[str, Any],
    progress: Progress | None,
) -> FuseReport:
    """See `lorasmith.fuse`."""
    listed = len(files) == 1 and str(files[0]).endswith(".json")
    uses = read_list(Path(files[0])) if listed else [ConceptUse.read(str(file)) for file in files]
    given: dict[str, Any] = {key: value for key, value in settings.items() if value is not None}
    given |= {key: tuple(given[key]) for key in ("prompts", "preserve") if key in given}
    given.setdefault("size", own_size(base))
    return fuse_files(base, uses, output, FuseSettings(**given), progress=progress)


def refit(
    file: Path, base: Path | str, output: OutputFile, settings: Mapping[str, Any], progress: Progress | None
) -> RefitReport:
    """See `lorasmith.refit`."""
    default = RefitSettings()
    given = {key: value for key, value in settings.items() if value is not None}
    given["prompts"] = (*default.prompts, *given.get("prompts", ()))
    given["preserve"] = (*default.preserve, *given.get("preserve", ()))
    given["names"] = tuple(given.get("names", ()))
    given["size"] = min(LARGEST, own_size(base))
    return refit_file(file, base, output, RefitSettings(**given), progress)


def own_size(base: Path | str) -> int:
    """Pixels of the pictures that a base was trained on."""
    return find(base).native_size
