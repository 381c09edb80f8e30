"""Fusing and refitting from the Python API: settings by name, with defaults that depend on the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from lorasmith.core.progress import Progress
from lorasmith.families.resolve import find
from lorasmith.files.lora import OutputFile
from lorasmith.fusion import ConceptUse, FuseReport, FuseSettings, fuse_files, read_list
from lorasmith.fusion.files import plan_files
from lorasmith.fusion.memory_plan import FusionPlan
from lorasmith.fusion.refit import RefitSettings
from lorasmith.fusion.refit_files import RefitReport, refit_file

MAX_REFIT_SIZE = 256
"""Side in pixels at which a refit compares predictions, at most."""


class FuseOptions(TypedDict, total=False):
    """How to fuse; see `lorasmith.fusion.FuseSettings`. `size` of the images that are drawn defaults to that of the
    base."""

    method: str
    rank: int | None
    prompts: Sequence[str] | None
    preserve: Sequence[str] | None
    ridge: float | Literal["auto"]
    steps: int
    seeds: int
    size: int | None
    base_parts: Sequence[str]
    device: str
    precision: str | None


class RefitOptions(TypedDict, total=False):
    """How to refit; see `lorasmith.fusion.refit.RefitSettings`. `prompts` and `preserve` are added to the built-in
    ones; the last three say how the file is written."""

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
    uses, values = read_uses(files), fuse_settings(base, settings)
    return fuse_files(base, uses, output, values, progress=progress)


def plan(files: Sequence[Path | str], base: Path | str, settings: Mapping[str, Any]) -> FusionPlan:
    """The memory that `fuse` will take; nothing is loaded."""
    return plan_files(base, read_uses(files), fuse_settings(base, settings))


def read_uses(files: Sequence[Path | str]) -> list[ConceptUse]:
    """The files with their strengths and names, or those of a list."""
    if len(files) == 1 and str(files[0]).endswith(".json"):
        return read_list(Path(files[0]))
    return [ConceptUse.read(str(file)) for file in files]


def fuse_settings(base: Path | str, settings: Mapping[str, Any]) -> FuseSettings:
    """The settings that are given, with defaults that depend on the base."""
    values = without_none(settings)
    for key in ("prompts", "preserve", "base_parts"):
        if key in values:
            values[key] = tuple(values[key])
    values.setdefault("size", native_size(base))
    return FuseSettings(**values)


def refit(
    file: Path, base: Path | str, output: OutputFile, settings: Mapping[str, Any], progress: Progress | None
) -> RefitReport:
    """See `lorasmith.refit`."""
    default = RefitSettings()
    # The prompts of a user are added to the built-in ones: a few alone would be too few for a regression.
    values = without_none(settings)
    values["prompts"] = (*default.prompts, *values.get("prompts", ()))
    values["preserve"] = (*default.preserve, *values.get("preserve", ()))
    values["names"] = tuple(values.get("names", ()))
    values["size"] = min(MAX_REFIT_SIZE, native_size(base))
    return refit_file(file, base, output, RefitSettings(**values), progress)


def without_none(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are given: None stands for the default."""
    return {key: value for key, value in settings.items() if value is not None}


def native_size(base: Path | str) -> int:
    """Side in pixels of the images that a base was trained on."""
    return find(base).native_size
