"""What the documents say is so: configs validate, commands exist, counts are right, the reference is current."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from lorasmith.cli.main import app
from lorasmith.compat.launchers import read_command
from lorasmith.compat.script import all_scripts
from lorasmith.core.recipes import FOLDER as RECIPE_FOLDER
from lorasmith.core.registry import registered, roots
from lorasmith.sampling.control import Control
from lorasmith.sampling.prompts import KEYS
from lorasmith.sampling.regions import validate_regions
from lorasmith.training.config import load_config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RECIPES = sorted(RECIPE_FOLDER.glob("*.toml"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


FOREIGN_KEYS = {"pretrained_model_name_or_path", "datasets"}
"""Keys that configs of sd-scripts have, which tests/e2e/test_coming_from.py runs."""
TOML = [
    (page.name, text)
    for page in PAGES
    for text in blocks(page, "toml")
    if not FOREIGN_KEYS & tomllib.loads(text).keys()
]


@pytest.mark.parametrize("text", [t for _, t in TOML], ids=[f"{name}-{i}" for i, (name, _) in enumerate(TOML)])
def test_configs_in_the_documents_are_valid(text: str) -> None:
    table: dict[str, Any] = tomllib.loads(text)
    if table.keys() & {"regions", "controls"}:
        check_scene(table)
        return
    table = {"base": "tiny-sd", "output": "runs/x"} | table
    if "preview" in table:
        table["preview"].setdefault("prompts", ["a"])
    data = table.setdefault("data", {})
    if "subsets" not in data:
        data.setdefault("images", "photos")
    load_config(table)


def check_scene(table: dict[str, Any]) -> None:
    """A picture by regions; pictures that lead it need not be there."""
    assert table.keys() <= KEYS.keys()
    assert validate_regions(table.get("regions", []), "the page") or table["controls"]
    for control in table.get("controls", []):
        Control.model_validate(control | {"image": __file__})


def commands() -> list[tuple[str, str]]:
    """Every line in the documents and recipes that starts the program."""
    found = []
    for page in [*PAGES, *RECIPES]:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        found += [(page.name, m[1]) for m in re.finditer(r"^(?:#? {4}|`)(lorasmith [a-z][^`#\n]*)", text, re.MULTILINE)]
    return found


@cache
def command_line() -> Any:
    return typer.main.get_command(app)


@pytest.mark.parametrize("line", sorted({line.strip() for _, line in commands()}))
def test_commands_in_the_documents_exist(line: str) -> None:
    group = command_line()
    _, name, *arguments = shlex.split(line.split(";")[0])
    assert name in group.commands
    if name in ("as", "convert-config"):  # then come another program's own options
        words = [word for word in arguments if word != "--"]
        foreign = words[0] if words[0] == "NAME" or words[0].endswith(".toml") else read_command(words).script
        assert foreign.removesuffix(".py") in (*all_scripts(), "NAME") or foreign.endswith(".toml")
        return
    command = group.commands[name]
    if hasattr(command, "commands"):  # a group, such as `queue`
        command = command.commands[arguments.pop(0)]
    known = {option for p in command.params for option in p.opts}
    assert {a.split("=")[0] for a in arguments if a.startswith("-")} <= known


def test_the_documents_name_the_commands() -> None:
    assert {line.split()[1] for _, line in commands()} >= {"train", "sample", "check", "inspect"}


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.slow
def test_the_reference_is_current() -> None:
    """Asked in a process of its own: other tests define kinds."""
    command = [sys.executable, "-m", "tools.docs", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_reference_names_every_kind() -> None:
    text = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
    ours = {name: root for name, root in roots().items() if root.__module__.startswith("lorasmith.")}
    assert {"loss", "adapter", "hook"} <= ours.keys()
    for root in ours.values():
        for kind, cls in registered(root).items():
            if not cls.__module__.startswith("lorasmith."):
                continue
            assert f"**`{kind}`**" in text, f"{kind} is not in the reference; run: make docs"


def test_the_example_of_contributing_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of the page, used as the plug-in that it says it can be."""
    from lorasmith.diffusion.losses import Loss

    (tmp_path / "my_losses.py").write_text(blocks(ROOT / "CONTRIBUTING.md", "python")[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    before = dict(registered(Loss))
    monkeypatch.setattr(Loss, "_kinds", dict(before))
    table = {"base": "tiny-sd", "output": "x", "data": {"images": "y"}, "plugins": ["my_losses"]}
    config = load_config(table | {"objective": {"loss": {"kind": "log_cosh", "a": 2.0}}})
    loss = config.objective.loss  # type: ignore[attr-defined]
    output, target = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    expected = torch.log(torch.cosh(2.0 * (output - target))) / 2.0
    torch.testing.assert_close(loss(output, target, torch.zeros(2), None), expected)
    assert set(registered(Loss)) == {*before, "log_cosh"}
