"""Where the files of a config are: below the folders of the studio, and named as the config of a run names them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lorasmith.core.config import read_table
from lorasmith.core.embedded_bases import EMBEDDED_BASES
from lorasmith.core.embedded_images import EMBEDDED_SOURCES
from lorasmith.core.errors import ConfigError, LorasmithError, Problem
from lorasmith.core.store import write_text
from lorasmith.sampling.prompts import split_loras
from lorasmith.studio.image_folder import find_image_folders
from lorasmith.studio.paths import OutsideError, Roots
from lorasmith.studio.run_list import EVENTS
from lorasmith.training.queue.job import SETTINGS as JOB

DEEPEST = 6
MOST_FILES = 20_000
LARGEST_CONFIG = 1 << 20
SMALLEST_MODEL = 400 << 20
"""Bytes; smaller `.safetensors` files are LoRAs, not bases."""


def as_text(path: Path) -> str:
    """A path as a config names it: from the current folder if it is below it, else whole."""
    try:
        return path.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return path.as_posix()


def check_places(roots: Roots, table: dict[str, Any]) -> None:
    """Raises ConfigError if a config reads or writes outside of the folders of the studio."""
    problems: list[Problem] = []
    for key, text in paths_of(table):
        try:
            roots.check(Path(text).expanduser())
        except OutsideError as error:
            problems.append(Problem(key, str(error)))
    if not isinstance(table.get("output"), str) or not table["output"]:
        problems.append(Problem("output", "is missing", remedy="name the folder of the run"))
    if problems:
        raise ConfigError(problems)


def paths_of(table: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The keys of a config that name files, with their values."""
    for key in ("output", "start"):
        if isinstance(table.get(key), str):
            yield key, table[key]
    # a base or VAE may also be the id of a model on the hub
    for key in ("base", "vae"):
        text = table.get(key)
        if isinstance(text, str) and is_local(text):
            yield key, text
    parts = table.get("base_parts")
    for text in parts if isinstance(parts, list) else []:
        if isinstance(text, str) and is_local(text):
            yield "base_parts", text
    data = table.get("data")
    if isinstance(data, dict):
        yield from image_paths_of(data)


def is_local(base: str) -> bool:
    """Whether the name of a base model is that of a file or folder of this machine."""
    return base != "" and os.path.lexists(os.path.expanduser(base))


def checked_base(roots: Roots, base: str) -> str:
    """The name of a base model. Raises LorasmithError if it is missing, or a path outside of the roots."""
    if not base.strip() or base.startswith("-"):
        raise LorasmithError(f'base: "{base}" names no model; choose one of the list, or write a folder or a hub id')
    if is_local(base):
        roots.check(Path(base).expanduser())
    return base


def check_tags(prompts: Iterable[str], files: Iterable[Path]) -> None:
    """Raises LorasmithError if a LoRA tag in a prompt names none of the chosen files: it would be looked for in folders
    that the studio was not started on."""
    names = {file.stem for file in files}
    for prompt in prompts:
        for tag in split_loras(prompt)[1]:
            if tag.name not in names:
                known = f"chosen are {', '.join(sorted(names))}" if names else "none is chosen"
                raise LorasmithError(f"<lora:{tag.name}>: choose the file first; {known}")


def image_paths_of(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The keys of the table `data` that name images, with their values."""
    sources: dict[str, Any] = {"data": data}
    subsets = data.get("subsets")
    if isinstance(subsets, list):
        sources |= {f"data.subsets.{i}": subset for i, subset in enumerate(subsets)}
    for place, source in sources.items():
        images = source.get("images") if isinstance(source, dict) else None
        # images of the package are in no folder of the user
        if isinstance(images, str) and images not in EMBEDDED_SOURCES:
            yield f"{place}.images", images


def save_config(text: str, output: Path) -> Path:
    """Write a config beside the folder of its run; a file with other content is not replaced."""
    candidate, number = output.with_name(f"{output.name}.toml"), 2
    while candidate.exists() and candidate.read_text(encoding="utf-8", errors="replace") != text:
        candidate, number = output.with_name(f"{output.name}-{number}.toml"), number + 1
    if not candidate.exists():
        write_text(candidate, text)
    return candidate


def find_configs(root: Path) -> Iterator[Path]:
    """Configs below a root: TOML files with a base, also those of runs."""
    for path in files_below(root):
        if path.suffix == ".toml" and path.stat().st_size <= LARGEST_CONFIG:
            try:
                table = read_table(path)
            except LorasmithError:
                continue
            if "base" in table and "data" in table:
                yield path


def bases_below(roots: Iterable[Path]) -> list[str]:
    """The bases that can be chosen: those that come with the package, and those below the roots."""
    found = (as_text(path) for root in roots for path in find_bases(root))
    return list(dict.fromkeys((*EMBEDDED_BASES, *found)))


def find_bases(root: Path) -> Iterator[Path]:
    """Base models below a root: diffusers folders and large `.safetensors` files."""
    for path in files_below(root):
        if path.name == "model_index.json":
            yield path.parent
        elif path.suffix == ".safetensors" and path.stat().st_size >= SMALLEST_MODEL:
            yield path


def files_below(root: Path) -> Iterator[Path]:
    """Files below a root, without hidden ones, as far as a search takes little time; of a run only its config."""
    depth, count = len(root.parts), 0
    for parent, names, files in os.walk(root):
        path = Path(parent)
        if JOB in files:
            files = []
        if EVENTS in files:
            names.clear()
            files = [name for name in files if name == "config.toml"]
        if len(path.parts) - depth >= DEEPEST or count > MOST_FILES:
            names.clear()
        names[:] = sorted(name for name in names if not name.startswith("."))
        count += len(files)
        yield from (path / name for name in sorted(files) if not name.startswith("."))


def image_folders(roots: Roots) -> dict[str, int]:
    """Folders of images as configs name them, with the number of their images."""
    found = (each for root in roots.folders.values() for each in find_image_folders(root))
    return {as_text(path): len(images) for path, images in found}
