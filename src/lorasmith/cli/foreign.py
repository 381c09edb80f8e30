"""`lorasmith as` and `lorasmith convert-config`: scripts of other trainers, with their own options."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorasmith.cli import console
from lorasmith.core.errors import LorasmithError

if TYPE_CHECKING:
    from lorasmith.compat.script import Action, Conversion, Script

Name = Annotated[str, typer.Argument(metavar="NAME", help="A script: train_network ...")]
Arguments = Annotated[list[str] | None, typer.Argument(metavar="ARGS...", help="Its own options and files.")]
SEPARATE = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
"""Options after the script's name are the script's."""


def as_command(name: Name, arguments: Arguments = None) -> None:
    """Train as another trainer's script would, with its own options and config files.

    lorasmith as train_network --config_file my.toml --network_dim 8

    Options that change nothing here, or that are done better, are mentioned; what cannot be done is an error.
    docs/kohya.md lists every option. --help after the name lists them here, --json answers with one JSON object.
    """
    from lorasmith import api
    from lorasmith.compat.script import Action, find_script

    words = list(arguments or [])
    as_json = "--json" in words
    script = find_script(name)
    if "--help" in words or "-h" in words:
        console.say(options_of(script))
        return
    words = [word for word in words if word != "--json"]
    if isinstance(script, Action):
        act(script, words, as_json)
        return
    conversion = converted(script, words)
    for note in conversion.notes:
        console.say(f"note: {note}")
    if conversion.first_batches_image is not None:
        look(conversion, as_json)
        return
    if conversion.prepare is not None and conversion.resume is None:
        conversion.prepare(console.progress_for())
    os.environ.update(conversion.secrets)
    result = api.train(
        conversion.config or None, resume=conversion.resume, overwrite=True, progress=console.progress_for()
    )
    if result.finished:
        copies = deliver(conversion, result.folder)
        console.say(
            f"{conversion.product + ':':7} {', '.join(map(str, copies)) or result.file}\nreport: {result.report}"
        )
        console.say(f"steps:  {result.steps} in {console.clock(result.seconds)}")
    if as_json:
        console.answer(asdict(result))
    if not result.finished:
        raise typer.Exit(130)


def look(conversion: Conversion, as_json: bool) -> None:
    """Draw the first batches in place of training."""
    from lorasmith import api
    from lorasmith.core.errors import ConfigError

    found = api.check(conversion.config, pictures=conversion.first_batches_image, progress=console.progress_for())
    if not found.ok:
        raise ConfigError(found.errors, "the data")
    console.say(f"first batches: {found.pictures}")
    if as_json:
        console.answer(found.to_dict())


def act(script: Action, words: list[str], as_json: bool) -> None:
    """Run a script that trains nothing and say what it made."""
    parsed = script.parse(words)
    for warning in parsed.warnings:
        console.say(f"note: {warning}")
    made = script.act(parsed, console.progress_for())
    if as_json:
        console.answer(made)
        return
    for name, value in made.items():
        console.say(f"{name}: {value}")


def convert_config_command(name: Name, arguments: Arguments = None) -> None:
    """Print the config of ours that another trainer's config file, or command line, means.

    lorasmith convert-config my_kohya.toml

    lorasmith convert-config -- train_network --config_file my.toml --network_dim 8

    Notes stand above it as comments.
    """
    from lorasmith.compat.script import find_script
    from lorasmith.core.config import to_toml

    words = list(arguments or [])
    if Path(name).suffix.lower() in (".toml", ".json", ".yml", ".yaml"):
        script, words = find_script("train_network"), ["--config_file", name, *words]
    else:
        script = find_script(name)
    conversion = converted(script, words)
    print("\n".join(f"# {line}" for note in conversion.notes for line in note.splitlines()))
    print(to_toml(conversion.config), end="")


def converted(script: Script, words: list[str]) -> Conversion:
    """The conversion of a command line, with the warnings of reading it among the notes."""
    parsed = script.parse(words)
    if parsed.done_message:
        console.say(parsed.done_message)
        raise typer.Exit
    conversion = script.convert(parsed)
    conversion.notes[:0] = parsed.warnings
    return conversion


def deliver(conversion: Conversion, folder: Path) -> list[Path]:
    """Where the original script writes its files; what training did not write there is copied from the run's folder."""
    made = []
    for name, target in conversion.copy_targets.items():
        source = folder / name
        if not source.is_file():
            raise LorasmithError(f"{source} is missing, so it cannot be copied to {target}")
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.resolve() != target.resolve():
            shutil.copyfile(source, target)
        made.append(target)
    return made


def options_of(script: Script) -> str:
    """Every option of a script, one a line."""
    from lorasmith.compat.options import STATES

    width = max(len(option.name) for option in script.options)
    lines = [f"--{o.name.ljust(width)}  {STATES[o.state]}{f': {o.note}' if o.note else ''}" for o in script.options]
    return "\n".join([f"options of {script.name} ({script.origin})", *lines])
