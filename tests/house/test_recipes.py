"""Every recipe is valid, says how to run it, and the demo's is the one that is shown."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from lorasmith.training.config import load_config

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_a_recipe_is_valid_and_says_how_to_run_it(path: Path) -> None:
    load_config(path)
    assert f"lorasmith train {path.relative_to(ROOT).as_posix()}" in "".join(path.read_text().splitlines(True)[:3])


def test_the_demo_is_the_recipe() -> None:
    demo = tomllib.loads((ROOT / "src/lorasmith/assets/demo.toml").read_text())
    assert demo == tomllib.loads((ROOT / "recipes/garp.toml").read_text())


def test_recipes_are_there() -> None:
    assert len(RECIPES) >= 3
