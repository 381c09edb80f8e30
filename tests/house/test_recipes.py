"""Every recipe is valid, says how to run it, and the demo's is the one that is shown."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from lorasmith.training.config import load_config
from tools.recipes import RECIPES as RECIPES_BY_ANSWERS
from tools.recipes import Recipe, text_of

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_a_recipe_is_valid_and_says_how_to_run_it(path: Path) -> None:
    load_config(path)
    assert f"lorasmith train {path.relative_to(ROOT).as_posix()}" in "".join(path.read_text().splitlines(True)[:3])


@pytest.mark.parametrize("recipe", RECIPES_BY_ANSWERS, ids=lambda recipe: recipe.name)
def test_a_recipe_is_what_new_writes(recipe: Recipe) -> None:
    """Run `python -m tools.recipes` after changing one."""
    text = (ROOT / "recipes" / f"{recipe.name}.toml").read_text()
    assert text == text_of(recipe)


@pytest.mark.parametrize("path", [path for path in RECIPES if path.stem.startswith(("sd", "ill", "noob"))], ids=str)
def test_a_recipe_says_what_it_rests_on(path: Path) -> None:
    head = path.read_text().split("\n\n")[0]
    assert all(word in head for word in ("Effective lr:", "views", "Evidence:", "Memory forecast:"))


def test_the_demo_is_the_recipe() -> None:
    demo = tomllib.loads((ROOT / "src/lorasmith/assets/demo.toml").read_text())
    assert demo == tomllib.loads((ROOT / "recipes/garp.toml").read_text())


def test_recipes_are_there() -> None:
    assert len(RECIPES) >= 3
