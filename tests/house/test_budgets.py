"""Files that fit into the head: length of files and functions, complexity, number of arguments, docstrings."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "tools").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
LONGEST_FILE, LONGEST_FUNCTION, MOST_ARGUMENTS, MOST_COMPLEX = 400, 80, 8, 12

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> list[Function]:
    return [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, Function)]


def complexity(function: Function) -> int:
    """Cyclomatic complexity: one, and one for each branch, loop, comprehension, condition and boolean operator."""
    branches = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)
    count = 1
    for node in ast.walk(function):
        if isinstance(node, branches):
            count += 1
        elif isinstance(node, ast.comprehension):
            count += 1 + len(node.ifs)
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
    return count


def is_command(function: Function) -> bool:
    """The parameters of a command are the options of its command line, not of a function that someone calls."""
    return function.name.endswith("_command")


def is_kernel(function: Function) -> bool:
    """A GPU kernel takes every pointer and size by itself."""
    return any(ast.unparse(decorator) == "triton.jit" for decorator in function.decorator_list)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_within_its_budget(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE
    for function in functions(path):
        length = (function.end_lineno or 0) - function.lineno + 1
        assert length <= LONGEST_FUNCTION, f"{function.name} has {length} lines"
        assert complexity(function) <= MOST_COMPLEX, f"{function.name} has a complexity of {complexity(function)}"
        given = function.args
        names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
        count = len([n for n in names if n not in ("self", "cls", "ctx")])
        assert count <= MOST_ARGUMENTS or is_command(function) or is_kernel(function), (
            f"{function.name} takes {count} arguments"
        )


@pytest.mark.parametrize("path", [p for p in FILES if "src" in p.parts], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not tree.body or ast.get_docstring(tree), "no docstring at the top"
