"""The recipes that come with Lorasmith: complete configs, each with a comment that says what it is for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.core.package import assets

FOLDER = assets() / "recipes"
MEMORY = re.compile(r"Memory forecast: about ([\d.]+ [GM]iB)")
NOT_MEASURED = re.compile(r"Evidence: not measured")


@dataclass(frozen=True)
class Recipe:
    """A recipe, and what the comment at its beginning says."""

    name: str
    """Its path in the folder of recipes, without suffix: `sd15-character`, `kinds/dora`."""
    purpose: str
    """The first sentence of the comment."""
    memory: str
    """The forecast for a step, such as `5.8 GiB`."""
    measured: bool
    """Whether its numbers were measured on the base that it is for."""
    text: str

    @property
    def file(self) -> Path:
        """The file in the package."""
        return FOLDER / f"{self.name}.toml"


def recipe_names() -> list[str]:
    """The names of all recipes, those of the folder itself first."""
    names = [path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.toml")]
    return sorted(names, key=lambda name: ("/" in name, name))


def read_recipe(name: str) -> Recipe:
    """The recipe with this name, `.toml` or not. Raises LorasmithError if there is none."""
    name = name.removesuffix(".toml")
    names = recipe_names()
    if name not in names:
        hint = did_you_mean(name, names)
        raise LorasmithError(f'there is no recipe "{name}"; {hint or "lorasmith recipes lists them"}')
    text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    comment = " ".join(line.removeprefix("#").strip() for line in text.partition("\n\n")[0].splitlines())
    purpose = re.split(r"\.\s|\s+lorasmith train", comment, maxsplit=1)[0].rstrip(".")
    memory = MEMORY.search(comment)
    return Recipe(name, purpose, memory[1] if memory else "", not NOT_MEASURED.search(comment), text)


def config_file(path: Path) -> Path:
    """The file that a command's CONFIG means: `path`, or the recipe of this name if there is no such file.

    Raises LorasmithError if a name without suffix is neither.
    """
    if path.exists() or path.suffix or path.is_absolute():
        return path
    name = path.as_posix()
    names = recipe_names()
    if name in names:
        return FOLDER / f"{name}.toml"
    hint = did_you_mean(name, names)
    raise LorasmithError(f"{path}: no such file, and no recipe of this name; {hint or 'lorasmith recipes lists them'}")
