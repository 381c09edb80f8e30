"""The program `lorasmith`: its commands and the handling of errors.

Exit codes: 0 success, 1 a mistake that the user can correct (one message, no traceback), 2 wrong usage of the command
line, 70 a bug in Lorasmith (traceback), 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import copy
import logging
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from typing import Annotated, Any

import typer

from lorasmith.cli import console
from lorasmith.cli.bench import bench_command
from lorasmith.cli.caption import caption_command
from lorasmith.cli.check import check_command
from lorasmith.cli.combine import combine_command
from lorasmith.cli.comfyui import comfyui_command
from lorasmith.cli.convert import convert_command
from lorasmith.cli.demo import demo_command
from lorasmith.cli.doctor import doctor_command
from lorasmith.cli.evaluate import evaluate_command
from lorasmith.cli.extract import extract_command
from lorasmith.cli.foreign import SEPARATE, as_command, convert_config_command
from lorasmith.cli.fuse import fuse_command
from lorasmith.cli.inspect import inspect_command
from lorasmith.cli.masks import masks_command
from lorasmith.cli.merge import merge_command
from lorasmith.cli.new import new_command
from lorasmith.cli.queue import COMMANDS as QUEUE_COMMANDS
from lorasmith.cli.queue import NO_ARGUMENTS, queue_app
from lorasmith.cli.recipes import recipes_command
from lorasmith.cli.refit import refit_command
from lorasmith.cli.report import report_command
from lorasmith.cli.reproduce import reproduce_command
from lorasmith.cli.resize import resize_command
from lorasmith.cli.sample import sample_command
from lorasmith.cli.ship import ship_command
from lorasmith.cli.strip import strip_command
from lorasmith.cli.studio import studio_command
from lorasmith.cli.sweep import sweep_command
from lorasmith.cli.train import train_command
from lorasmith.core.errors import LorasmithError
from lorasmith.core.out_of_memory import is_address_space_used_up, is_out_of_memory
from lorasmith.core.package import VERSION

EXIT_MISTAKE = 1
EXIT_BUG = 70
EXIT_STOPPED = 130
MEMORY_ADVICE = (
    "memory does not suffice. Close other programs, raise the limit of the system (ulimit -v), or use smaller images, "
    "batches or a smaller base. A run continues from its last checkpoint with: lorasmith train --resume FOLDER"
)

app = typer.Typer(
    name="lorasmith",
    help="Train, sample, evaluate and convert LoRAs for Stable Diffusion.\n\nFirst time: lorasmith demo. "
    "With your own pictures: lorasmith new, then check and train.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(
    name: str,
    command: Callable[..., None],
    needs_arguments: bool = True,
    settings: dict[str, Any] | None = None,
    group: typer.Typer = app,
    panel: str | None = None,
) -> None:
    """Register a command, under the heading `panel` of the help.

    Its help text is the docstring of the function, with each paragraph on one line, so that the terminal wraps it.
    """
    # typer keeps single line breaks, so lines are joined within each paragraph
    paragraphs = (command.__doc__ or "").strip().split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    group.command(name, help=text, no_args_is_help=needs_arguments, context_settings=settings, rich_help_panel=panel)(
        command
    )


TRAIN = "Train"
USE = "Use and judge"
FILES = "LoRA files"
OTHERS = "Other programs"
START = "Start here"

_add("demo", demo_command, panel=START, needs_arguments=False)
_add("new", new_command, panel=START, needs_arguments=False)
_add("recipes", recipes_command, panel=START, needs_arguments=False)
_add("studio", studio_command, panel=START, needs_arguments=False)
_add("doctor", doctor_command, panel=START, needs_arguments=False)
_add("bench", bench_command, panel=START, needs_arguments=False)

_add("check", check_command, panel=TRAIN)
_add("train", train_command, panel=TRAIN)
_add("sweep", sweep_command, panel=TRAIN)
app.add_typer(queue_app, name="queue", rich_help_panel=TRAIN)
for _name, _command in QUEUE_COMMANDS.items():
    _add(_name, _command, needs_arguments=_name not in NO_ARGUMENTS, group=queue_app)
_add("reproduce", reproduce_command, panel=TRAIN)
_add("report", report_command, panel=TRAIN)
_add("masks", masks_command, panel=TRAIN)
_add("caption", caption_command, panel=TRAIN)

_add("sample", sample_command, panel=USE)
_add("evaluate", evaluate_command, panel=USE)
_add("ship", ship_command, panel=USE)

_add("inspect", inspect_command, panel=FILES)
_add("convert", convert_command, panel=FILES)
_add("strip", strip_command, panel=FILES)
_add("resize", resize_command, panel=FILES)
_add("extract", extract_command, panel=FILES)
_add("merge", merge_command, panel=FILES)
_add("combine", combine_command, panel=FILES)
_add("fuse", fuse_command, panel=FILES)
_add("refit", refit_command, panel=FILES)

_add("as", as_command, panel=OTHERS, settings=SEPARATE)
_add("convert-config", convert_config_command, panel=OTHERS, settings=SEPARATE)
_add("comfyui", comfyui_command, panel=OTHERS, needs_arguments=False)


def _print_version(value: bool) -> None:
    if value:
        print(f"lorasmith {VERSION}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line of this process and exit."""
    console.make_streams_safe()
    # importing diffusers makes bitsandbytes warn about missing kernels, which are not used here
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    as_json = "--json" in sys.argv
    with console.json_alone() if as_json else nullcontext():
        run_app(as_json)


def app_for(arguments: list[str]) -> typer.Typer:
    """The program with only the command that the arguments begin with; with all of them if they begin with no command.

    typer reads the signature of each command that it has, which takes longer than most answers.
    """
    chosen = [command for command in app.registered_commands if arguments[:1] == [command.name]]
    if not chosen:
        return app
    with_one = copy.copy(app)
    with_one.registered_commands = chosen
    with_one.registered_groups = []
    return with_one


def run_app(as_json: bool) -> None:
    """Run the command, and turn every error into a message and an exit code."""
    try:
        app_for(sys.argv[1:])(prog_name="lorasmith")
    except LorasmithError as error:
        console.print_error(error, as_json)
        sys.exit(EXIT_MISTAKE)
    except KeyboardInterrupt:
        console.say("stopped")
        sys.exit(EXIT_STOPPED)
    except Exception as error:
        if is_out_of_memory(error) or is_address_space_used_up():
            console.print_error(LorasmithError(f"{MEMORY_ADVICE} ({error})"), as_json="--json" in sys.argv)
            sys.exit(EXIT_MISTAKE)
        traceback.print_exc()
        console.say(
            "This is a bug in lorasmith, not your mistake. Please report it with the lines above and your config."
        )
        sys.exit(EXIT_BUG)
