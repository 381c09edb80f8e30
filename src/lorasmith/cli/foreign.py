"""`lorasmith as` and `lorasmith convert-config`: scripts of other trainers with their own options."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorasmith.cli import console
from lorasmith.core.errors import LorasmithError
from lorasmith.core.launch import find_launch, run_ranks

if TYPE_CHECKING:
    from lorasmith.compat.script import Action, Conversion, Script

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of a script: train_network ...")]
Arguments = Annotated[
    list[str] | None, typer.Argument(metavar="ARGS...", help="Options and files as the script takes them.")
]
SEPARATE = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
"""Settings of click: options after the name of the script belong to the script."""


def as_command(name: Name, arguments: Arguments = None) -> None:
    """Do what a script of another trainer does, with its own options and config files.

    lorasmith as train_network --config_file my.toml --network_dim 8

    lorasmith as accelerate launch --num_processes 2 train_network.py --config_file my.toml

    Options without effect here, and options that are improved, are noted; options that are not supported are errors.
    docs/kohya.md lists every option. --help after the name lists them here; --json prints one JSON object.
    """
    from lorasmith.compat.launchers import read_command
    from lorasmith.compat.script import Action, find_script

    # --help and --json are ours; everything else belongs to the script or its launcher.
    arguments = list(arguments or [])
    as_json = "--json" in arguments
    command = read_command([name, *(argument for argument in arguments if argument != "--json")])
    script = find_script(command.script)
    os.environ.update(command.environment)
    arguments = command.arguments_for(script)
    if "--help" in arguments or "-h" in arguments:
        console.say(list_options(script))
        return
    if isinstance(script, Action):
        run_action(script, arguments, command.notes, as_json)
        return
    conversion = convert_arguments(script, arguments)
    conversion.notes[:0] = command.notes

    # Mistakes are found before any process starts, and notes are printed by one of them.
    count = 1 if is_started_by_launcher() else command.process_count(count_devices)
    if count > 1 and conversion.first_batches_image is None:
        say_notes([f"{command.launcher}: {count} processes train together"])
        raise typer.Exit(start_ranks(count, script, arguments, as_json))
    say_notes(conversion.notes)
    if conversion.first_batches_image is not None:
        write_first_batches(conversion, as_json)
    else:
        train(conversion, as_json)


def is_started_by_launcher() -> bool:
    """Whether a launcher has started this process, as one of several."""
    return find_launch().count > 1


def count_devices() -> int:
    """The number of GPUs of NVIDIA or AMD."""
    import torch

    return torch.cuda.device_count()


def start_ranks(count: int, script: Script, arguments: list[str], as_json: bool) -> int:
    """Train in several processes on this machine; returns the exit code."""
    command = [sys.executable, "-m", "lorasmith", "as", script.name, *arguments]
    return run_ranks([*command, "--json"] if as_json else command, count)


def say_notes(notes: list[str]) -> None:
    """Print notes; of the ranks of a distributed run, only the first one does."""
    if find_launch().first:
        for note in notes:
            console.say(f"note: {note}")


def train(conversion: Conversion, as_json: bool) -> None:
    """Train with a converted config, and put the files where the script puts them."""
    from lorasmith import api

    if conversion.prepare is not None and conversion.resume is None:
        conversion.prepare(console.make_progress())
    os.environ.update(conversion.secrets)
    progress = console.make_progress()
    result = api.train(
        # The original script would not stop at remarks either.
        conversion.config or None,
        resume=conversion.resume,
        overwrite=True,
        accept_remarks=True,
        progress=progress,
    )
    # Of the ranks of a distributed run, only the first one writes and prints.
    if not find_launch().first:
        return
    if result.finished:
        copies = copy_files(conversion, result.folder)
        files = ", ".join(str(path) for path in copies) or result.file
        console.say(f"{conversion.product + ':':7} {files}")
        console.say(f"report: {result.report}")
        console.say(f"steps:  {result.steps} in {console.format_duration(result.seconds)}")
    if as_json:
        console.print_json(asdict(result))
    if not result.finished:
        raise typer.Exit(130)


def write_first_batches(conversion: Conversion, as_json: bool) -> None:
    """Write a picture of the first batches, in place of training."""
    from lorasmith import api
    from lorasmith.core.errors import ConfigError

    result = api.check(conversion.config, pictures=conversion.first_batches_image, progress=console.make_progress())
    if not result.ok:
        raise ConfigError(result.errors, "the data")
    console.say(f"first batches: {result.pictures}")
    if as_json:
        console.print_json(result.to_dict())


def run_action(script: Action, arguments: list[str], notes: list[str], as_json: bool) -> None:
    """Run a script that does not train, in one process, and print its results."""
    parsed = script.parse(arguments)
    if not find_launch().first:
        return
    say_notes([*notes, *parsed.warnings])
    results = script.act(parsed, console.make_progress())
    if as_json:
        console.print_json(results)
        return
    for name, value in results.items():
        console.say(f"{name}: {value}")


def convert_config_command(name: Name, arguments: Arguments = None) -> None:
    """Convert a config file, or a command line, of another trainer to a config of Lorasmith, and print it.

    lorasmith convert-config my_kohya.toml

    lorasmith convert-config -- train_network --config_file my.toml --network_dim 8

    Notes are printed above the config, as comments.
    """
    from lorasmith.compat.detect import SUFFIXES, command_of
    from lorasmith.compat.launchers import read_command
    from lorasmith.compat.script import find_script
    from lorasmith.core.config import to_toml

    words = [name, *(arguments or [])]
    # A file alone stands for the script that it is made for.
    if Path(name).suffix.lower() in SUFFIXES:
        words = [*command_of(Path(name)), *(arguments or [])]
    command = read_command(words)
    script = find_script(command.script)
    arguments = command.arguments_for(script)
    conversion = convert_arguments(script, arguments)
    comments = [f"# {line}" for note in conversion.notes for line in note.splitlines()]
    console.show("\n".join(comments))
    console.show(to_toml(conversion.config), end="")


def convert_arguments(script: Script, arguments: list[str]) -> Conversion:
    """Convert the arguments of a script. Warnings of parsing come first among the notes of the conversion."""
    parsed = script.parse(arguments)
    if parsed.done_message:
        console.say(parsed.done_message)
        raise typer.Exit
    conversion = script.convert(parsed)
    conversion.notes[:0] = parsed.warnings
    return conversion


def copy_files(conversion: Conversion, folder: Path) -> list[Path]:
    """Copy files of the run's folder to where the script writes them, and return their new paths."""
    copies = []
    for name, target in conversion.copy_targets.items():
        source = folder / name
        if not source.is_file():
            raise LorasmithError(f"{source} is missing, so it cannot be copied to {target}")
        target.parent.mkdir(parents=True, exist_ok=True)
        # training may have written it there itself
        if source.resolve() != target.resolve():
            shutil.copyfile(source, target)
        copies.append(target)
    return copies


def list_options(script: Script) -> str:
    """The options of a script, one on each line, with their state and note."""
    from lorasmith.compat.options import STATES

    width = max(len(option.name) for option in script.options)
    lines = [f"options of {script.name} ({script.origin})"]
    for option in script.options:
        state = STATES[option.state]
        text = f"{state}: {option.note}" if option.note else state
        lines.append(f"--{option.name.ljust(width)}  {text}")
    return "\n".join(lines)
