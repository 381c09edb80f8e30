"""Files and folders that a config names and that do not exist, from the base to the images.

They are found by their names, without torch and without opening a file, so that all of them are reported at once,
beside the other problems of the config. What reads the files later reports a missing one in the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from lorasmith.concepts.config import EMBEDDING_SUFFIXES
from lorasmith.core.config import exists
from lorasmith.core.embedded_images import EMBEDDED
from lorasmith.core.errors import LorasmithError, Problem
from lorasmith.core.file_strength import split_strength
from lorasmith.families.model_paths import local_base, local_part, local_vae

CORRECT_PATH = "correct the path"
EVERY = "*"
"""In a pattern of keys: each item of a list, or each entry of a table."""
Finder = Callable[[str, str], Problem | None]
"""From the key and the value of a setting to the problem with it, or None."""


def missing_files(table: Mapping[str, Any]) -> list[Problem]:
    """A problem for each file or folder that a config names and that does not exist.

    `table`: the config as it was read, which may be wrong in other ways. Values of wrong types are skipped, and so are
    hub ids.
    """
    problems: list[Problem] = []
    for pattern, find in FINDERS.items():
        for key, value in values_at(table, pattern.split(".")):
            if isinstance(value, str | Path) and str(value):
                problem = find(key, str(value))
                if problem is not None and problem not in problems:
                    problems.append(problem)
    return problems


def values_at(node: Any, keys: list[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values at a pattern of keys, each with its dotted key; nothing where the config has other types."""
    if not keys:
        yield prefix, node
        return
    key, *inner = keys
    children: dict[str, Any] = {}
    if isinstance(node, Mapping):
        children = {str(name): value for name, value in cast("Mapping[Any, Any]", node).items()}
    elif isinstance(node, list | tuple):
        children = {str(i): value for i, value in enumerate(cast("list[Any]", node))}
    elif key == EVERY:
        # one value may stand for a list with it
        yield from values_at(node, inner, prefix)
    for name in children if key == EVERY else (key,):
        if name in children:
            yield from values_at(children[name], inner, f"{prefix}.{name}" if prefix else name)


def missing_model(locate: Callable[[str], Path | None], where: str) -> Finder:
    """A finder for what `locate` finds on this machine; it raises LorasmithError if there is nothing."""

    def find(key: str, value: str) -> Problem | None:
        try:
            locate(value)
        except LorasmithError as error:
            return Problem(where, str(error))
        return None

    return find


def missing_images(key: str, source: str) -> Problem | None:
    """A source of images that does not exist. Names of images of the package are judged by the field itself."""
    if source.startswith(EMBEDDED) or exists(Path(source).expanduser()):
        return None
    return Problem(key, f'"{Path(source).expanduser()}" does not exist', remedy=CORRECT_PATH)


def missing_folder(key: str, folder: str) -> Problem | None:
    """A folder of captions, masks or pictures of conditions that does not exist."""
    if Path(folder).expanduser().is_dir():
        return None
    return Problem(key, f'"{folder}" is not a folder', remedy=CORRECT_PATH)


def missing_masks(key: str, masks: str) -> Problem | None:
    """A folder of masks that does not exist. `alpha` is no folder: it means the alpha channels of the images. Names of
    masks of the package are judged by the field itself."""
    return None if masks == "alpha" or masks.startswith(EMBEDDED) else missing_folder(key, masks)


def missing_metadata(key: str, file: str) -> Problem | None:
    """A file of captions that does not exist."""
    if Path(file).expanduser().is_file():
        return None
    return Problem(key, f"{file}: no such file", remedy=CORRECT_PATH)


def missing_lora(key: str, written: str) -> Problem | None:
    """A LoRA file, maybe with a strength behind it, that does not exist."""
    where = key.partition(".")[0]
    try:
        path, _ = split_strength(written)
    except LorasmithError as error:
        return Problem(where, str(error))
    return None if exists(path) else Problem(where, f"{path}: no such LoRA file")


def missing_embedding(key: str, init: str) -> Problem | None:
    """A file of embeddings that does not exist. Other initial values are words."""
    path = Path(init).expanduser()
    if path.suffix.lower() not in EMBEDDING_SUFFIXES or path.is_file():
        return None
    return Problem(key, f"{path}: file not found", remedy=CORRECT_PATH)


def missing_prompts(key: str, file: str) -> Problem | None:
    """A file of prompts that does not exist."""
    return None if Path(file).is_file() else Problem(key, f"{file}: no such file of prompts", remedy=CORRECT_PATH)


FINDERS: dict[str, Finder] = {
    "base": missing_model(local_base, "base"),
    "vae": missing_model(local_vae, "vae"),
    "base_parts.*": missing_model(local_part, "base_parts"),
    "merge.*": missing_lora,
    "start": missing_lora,
    "concepts.*.init": missing_embedding,
    "concepts.*.init.*": missing_embedding,
    "data.images": missing_images,
    "data.subsets.*.images": missing_images,
    "data.validation.images": missing_images,
    "preview.prompts": missing_prompts,
}
"""By the keys of a config."""
for _subset in ("data", "data.subsets.*"):
    FINDERS[f"{_subset}.metadata"] = missing_metadata
    FINDERS[f"{_subset}.captions"] = missing_folder
    FINDERS[f"{_subset}.masks"] = missing_masks
    FINDERS[f"{_subset}.concept_masks.*"] = missing_folder
    FINDERS[f"{_subset}.condition_images.*"] = missing_folder
