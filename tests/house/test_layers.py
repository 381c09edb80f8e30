"""Imports go down the layers only, and neighbours do not know each other."""

from __future__ import annotations

import ast
from functools import cache
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
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if called not in ("import_module", "__import__") or not call.args:
        return None
    name = call.args[0]
    parts = name.values if isinstance(name, ast.JoinedStr) else [name]
    start = parts[0].value if isinstance(parts[0], ast.Constant) else ""
    return str(start).rstrip(".") if str(start).startswith("lorasmith.") else None


def is_for_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def importing_nodes(path: Path) -> list[ast.Import | ast.ImportFrom | ast.Call]:
    """Imports and calls, wherever in a file, other than for type checking alone."""
    found: list[ast.Import | ast.ImportFrom | ast.Call] = []
    left: list[ast.AST] = [tree_of(path)]
    while left:
        node = left.pop()
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Call):
            found.append(node)
        if not is_for_type_checking(node):
            left += ast.iter_child_nodes(node)
    return found


def imported(path: Path) -> set[str]:
    """Modules of Lorasmith that a file imports, other than for type checking alone."""
    found: set[str] = set()
    for node in importing_nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if node.module == "lorasmith" else {node.module}
        elif isinstance(node, ast.Call) and path.stem not in FORWARDS:
            found.add(imported_by_name(node) or "")
    return {name.removeprefix("lorasmith.") for name in found if name.startswith("lorasmith.")}


def wrong_imports(path: Path) -> list[str]:
    """What a file imports from above, or from a neighbour."""
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    found: list[str] = []
    for module in sorted(imported(path)):
        other = module.split(".")[0]
        if other == own:
            continue
        if layer_of(other) > layer_of(own):
            found.append(f"{own} is below {other}, so it must not import {module}")
        elif layer_of(other) == layer_of(own) and not ((own, other) in NEIGHBOURS and module == f"{other}.base"):
            found.append(f"{own} and {other} are neighbours; {own} must not import {module}")
    return found


def test_imports_go_down() -> None:
    found = [f"{path.relative_to(SOURCE)}: {wrong}" for path in FILES for wrong in wrong_imports(path)]
    assert not found, "\n".join(found)


def test_imports_that_do_not_go_down_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.SOURCE", tmp_path)
    file = tmp_path / "data" / "file.py"
    file.parent.mkdir()
    file.write_text(
        "import lorasmith.core.store\nimport lorasmith.data.cache\nimport lorasmith.families.base\n"
        "import lorasmith.families.load\nimport lorasmith.training\n"
    )
    assert wrong_imports(file) == [
        "data and families are neighbours; data must not import families.load",
        "data is below training, so it must not import training",
    ]


def test_relative_imports_are_not_used() -> None:
    for path in FILES:
        for node in ast.walk(tree_of(path)):
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
