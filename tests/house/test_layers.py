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
    {"conditions"},
    {"sampling", "files"},
    {"evaluation"},
    {"training", "fusion"},
    {"compat"},
    {"api", "integrations"},
    {"studio"},
    {"cli"},
]
"""From the bottom up. `api` is the public functions, over everything that does work."""

NEIGHBOURS = {("data", "families")}
"""Data encode images and texts with a family, whose interface (`families.base`) they may know."""

NOT_IN_A_LAYER = {"__init__.py", "__main__.py", "assets"}
"""`assets` holds the nodes for ComfyUI, which are copied, and imported by ComfyUI only."""
FILES = sorted(p for p in SOURCE.rglob("*.py") if p.relative_to(SOURCE).parts[0] not in NOT_IN_A_LAYER)


def layer_of(part: str) -> int:
    return next(i for i, parts in enumerate(LAYERS) if part in parts)


FORWARDS = {"moved_modules"}
"""Imports whatever an old path has become, so its imports by name are not bound to a layer."""


def imported_by_name(call: ast.Call) -> str | None:
    """The module below Lorasmith in `import_module("lorasmith...")`, as far as it is written out; else None.

    `import_module(name)` says nothing: the registry imports the folder that an extension point is in.
    """
    if ast.unparse(call.func).split(".")[-1] not in ("import_module", "__import__") or not call.args:
        return None
    name = call.args[0]
    parts = name.values if isinstance(name, ast.JoinedStr) else [name]
    start = parts[0].value if isinstance(parts[0], ast.Constant) else ""
    return str(start).rstrip(".") if str(start).startswith("lorasmith.") else None


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
        elif isinstance(node, ast.Call) and path.stem not in FORWARDS:
            found.add(imported_by_name(node) or "")
    return {name.removeprefix("lorasmith.") for name in found if name.startswith("lorasmith.")}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    for module in imported(path):
        other = module.split(".")[0]
        if other == own:
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


def test_imports_by_name_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text(
        "import importlib\nfrom importlib import import_module\n"
        'import_module("lorasmith.api")\nimportlib.import_module(f"lorasmith.compat.{name}")\nimport_module(name)\n'
    )
    assert imported(file) == {"api", "compat"}
