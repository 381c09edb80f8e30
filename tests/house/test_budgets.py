"""Files that fit into the head: length of files and functions, complexity, number of arguments, docstrings."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "tools").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
LONGEST_FILE, LONGEST_FUNCTION, MOST_ARGUMENTS, MOST_COMPLEX = 400, 80, 8, 12

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(tree: ast.Module) -> list[Function]:
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


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


def faults(function: Function) -> list[str]:
    """What is too large about it."""
    length = (function.end_lineno or 0) - function.lineno + 1
    given = function.args
    names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    count = len([n for n in names if n not in ("self", "cls", "ctx")])
    found = [
        (length > LONGEST_FUNCTION, f"has {length} lines"),
        ((branches := complexity(function)) > MOST_COMPLEX, f"has a complexity of {branches}"),
        (count > MOST_ARGUMENTS and not is_command(function) and not is_kernel(function), f"takes {count} arguments"),
    ]
    return [f"{function.name} {fault}" for is_fault, fault in found if is_fault]


def test_files_and_functions_are_within_their_budgets() -> None:
    found: list[str] = []
    for path in FILES:
        name, text = path.relative_to(ROOT), path.read_text(encoding="utf-8")
        if (lines := len(text.splitlines())) > LONGEST_FILE:
            found.append(f"{name} has {lines} lines")
        found += [f"{name}: {fault}" for function in functions(tree_of(path)) for fault in faults(function)]
    assert not found, "\n".join(found)


def test_what_is_too_large_is_found() -> None:
    body = "".join("    if a0: pass\n" for _ in range(MOST_COMPLEX)) + "    pass\n" * LONGEST_FUNCTION
    names = ", ".join(f"a{i}" for i in range(MOST_ARGUMENTS + 1))
    (function,) = functions(ast.parse(f"def f({names}):\n{body}"))
    lines, branches = 1 + MOST_COMPLEX + LONGEST_FUNCTION, 1 + MOST_COMPLEX
    assert faults(function) == [
        f"f has {lines} lines",
        f"f has a complexity of {branches}",
        f"f takes {MOST_ARGUMENTS + 1} arguments",
    ]


def test_every_module_says_what_it_is() -> None:
    """With a docstring at its top."""
    trees = {path.relative_to(ROOT): tree_of(path) for path in FILES if "src" in path.relative_to(ROOT).parts}
    assert [str(name) for name, tree in trees.items() if tree.body and not ast.get_docstring(tree)] == []
