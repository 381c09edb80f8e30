"""Imports go down the layers only, and neighbours do not know each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "lorasmith"

LAYERS: list[set[str]] = [
    {"moved_modules"},
    {"core"},
    {"diffusion", "imaging"},
    {"adapters", "concepts"},
    {"families", "formats", "data"},
    {"sampling", "files"},
    {"evaluation", "training", "fusion"},
    {"compat"},
    {"api", "integrations"},
    {"cli", "studio"},
]
"""From the bottom up. `api` is the public functions, over everything that does work."""

NEIGHBOURS = {("data", "families")}
"""Data encode images and texts with a family, whose interface (`families.base`) they may know."""

FILES = sorted(p for p in SOURCE.rglob("*.py") if p.relative_to(SOURCE).parts[0] not in ("__init__.py", "__main__.py"))


def layer_of(part: str) -> int:
    return next(i for i, parts in enumerate(LAYERS) if part in parts)


def imported(path: Path) -> set[str]:
    """Modules of Lorasmith that a file imports, wherever in it, other than for type checking alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unreal = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test).endswith("TYPE_CHECKING")
        for node in ast.walk(branch)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in unreal:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if node.module == "lorasmith" else {node.module}
    return {name.removeprefix("lorasmith.") for name in found if name.startswith("lorasmith.")}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    for module in imported(path):
        other = module.split(".")[0]
        if other in (own, "__version__"):
            continue
        assert layer_of(other) <= layer_of(own), f"{own} is below {other}, so it must not import {module}"
        if layer_of(other) == layer_of(own):
            allowed = (own, other) in NEIGHBOURS and module == f"{other}.base"
            assert allowed, f"{own} and {other} are neighbours; {own} must not import {module}"


def test_relative_imports_are_not_used() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path


def test_every_part_has_a_layer() -> None:
    parts = {p.relative_to(SOURCE).parts[0].removesuffix(".py") for p in FILES}
    assert parts <= set.union(*LAYERS)
