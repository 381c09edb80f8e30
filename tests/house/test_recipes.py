"""Every recipe is valid, says how to run it and what it rests on, and the written ones are current."""

from __future__ import annotations

import pytest

from lorasmith.core.embedded_bases import EMBEDDED_BASES
from lorasmith.core.recipes import FOLDER, read_recipe, recipe_names
from lorasmith.training.config import load_config
from tools.recipes import RECIPES as RECIPES_BY_ANSWERS
from tools.recipes import Recipe, text_of


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_valid_and_says_how_to_run_it(name: str) -> None:
    recipe = read_recipe(name)
    load_config(recipe.file)
    commands = [line for line in recipe.text.splitlines() if line.startswith("#     lorasmith train ")]
    assert [command.split()[3] for command in commands] == [name]


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_says_what_it_is_for_what_it_rests_on_and_how_much_memory_it_needs(name: str) -> None:
    recipe = read_recipe(name)
    comment = recipe.text.split("\n\n")[0]
    assert 10 < len(recipe.purpose) <= 110, recipe.purpose
    assert recipe.memory, "the comment has no: Memory forecast: about 5.8 GiB"
    assert "Evidence:" in comment
    if load_config(recipe.file).base not in EMBEDDED_BASES:
        assert "Effective lr:" in comment
        assert "views" in comment


@pytest.mark.parametrize("recipe", RECIPES_BY_ANSWERS, ids=lambda recipe: recipe.name)
def test_a_recipe_is_what_new_writes(recipe: Recipe) -> None:
    """Run `python -m tools.recipes` after changing one."""
    text = (FOLDER / f"{recipe.name}.toml").read_text(encoding="utf-8")
    assert text == text_of(recipe)
