"""A command line that names a command builds only this command."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from lorasmith.cli.main import app, app_for


def test_only_the_named_command_is_built() -> None:
    assert [command.name for command in app_for(["check", "a.toml"]).registered_commands] == ["check"]
    # the program itself keeps all of them, for the next call in this process
    assert {"check", "train"} <= {command.name for command in app.registered_commands}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["chekc"], ["queue", "list"]], ids=str)
def test_without_a_command_all_are_there(arguments: list[str]) -> None:
    assert app_for(arguments) is app


def test_help_of_one_command_is_the_same() -> None:
    alone = CliRunner().invoke(app_for(["check"]), ["check", "--help"])
    among_all = CliRunner().invoke(app, ["check", "--help"])
    assert alone.exit_code == 0
    assert alone.output == among_all.output
