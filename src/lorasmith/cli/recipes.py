"""`lorasmith recipes`: the configs that come with Lorasmith."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lorasmith.cli import console
from lorasmith.cli.options import Json, Overwrite
from lorasmith.core.errors import LorasmithError
from lorasmith.core.recipes import Recipe, read_recipe, recipe_names


def recipes_command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show this recipe. Default: a list of all of them.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="FILE", help="Write the recipe into a new file, to change it.")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """List the configs that come with Lorasmith, show one, or write one into a file.

    A recipe can be trained by its name: lorasmith train sd15-character base=FILE data.images=FOLDER.
    """
    if name is None:
        if write is not None:
            raise LorasmithError("name the recipe that is to be written: lorasmith recipes sd15-character --write FILE")
        print_list([read_recipe(each) for each in recipe_names()], json)
        return
    recipe = read_recipe(name)
    if write is not None:
        write_copy(recipe, write, overwrite)
    if json:
        console.print_json(described(recipe) | {"toml": recipe.text, "file": write or recipe.file})
    elif write is None:
        console.show(recipe.text, end="")
    else:
        console.show(f"{write} written. Change it, see what a run would do, then start it:")
        console.show(f"    lorasmith check {write}")
        console.show(f"    lorasmith train {write}")


def write_copy(recipe: Recipe, target: Path, overwrite: bool) -> None:
    """Write the recipe into a new file, whose comment names that file. Raises LorasmithError if it exists."""
    from lorasmith.core.store import write_text

    if target.exists() and not overwrite:
        raise LorasmithError(f"{target}: exists already; name another file, or give --overwrite")
    write_text(target, recipe.text.replace(f"lorasmith train {recipe.name}", f"lorasmith train {target.as_posix()}"))


def print_list(recipes: list[Recipe], as_json: bool) -> None:
    """One line for each recipe."""
    from rich.table import Table

    if as_json:
        console.print_json({"recipes": [described(recipe) for recipe in recipes]})
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("recipe", no_wrap=True)
    table.add_column("for", overflow="fold")
    table.add_column("memory", no_wrap=True, justify="right")
    table.add_column("numbers", no_wrap=True)
    for recipe in recipes:
        evidence = "measured" if recipe.measured else "not measured"
        table.add_row(recipe.name, recipe.purpose, recipe.memory, evidence)
    console.rich_console(sys.stdout).print(table)
    console.say(
        "Memory: a forecast for one step. Show a recipe: lorasmith recipes NAME. Copy it to change it: --write FILE."
    )


def described(recipe: Recipe) -> dict[str, object]:
    """The entry of a recipe in JSON."""
    return {
        "name": recipe.name,
        "purpose": recipe.purpose,
        "memory": recipe.memory,
        "measured": recipe.measured,
    }
