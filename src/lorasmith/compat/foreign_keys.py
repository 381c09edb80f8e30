"""Keys of other trainers in a config of ours: the error names our key, from the option tables of their scripts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from lorasmith.core.config import UNKNOWN_KEY
from lorasmith.core.errors import ConfigError, Problem

if TYPE_CHECKING:
    from lorasmith.compat.options import Option

P = ParamSpec("P")
R = TypeVar("R")
FOREIGN_FILES = {
    "job": (
        "the file is a job of ai-toolkit, not settings of Lorasmith",
        "run: lorasmith as ai-toolkit {file}   (or convert it: lorasmith convert-config {file} > mine.toml)",
    ),
    "LoRA_type": (
        "the file holds the settings of the form kohya_ss, not options of a script or settings of Lorasmith",
        "when training starts, kohya_ss writes the options of its script to config_lora-DATE.toml in the output "
        "folder; run: lorasmith as train_network --config_file config_lora-DATE.toml",
    ),
    "pretrained_model_name_or_path": (
        "the file holds options of sd-scripts, not settings of Lorasmith",
        "run: lorasmith as {script} --config_file {file}   "
        "(or convert it: lorasmith convert-config {file} > mine.toml)",
    ),
    "datasets": (
        "the file describes a data set for sd-scripts; it is no config of Lorasmith",
        "run: lorasmith as train_network --dataset_config {file} --pretrained_model_name_or_path BASE ...",
    ),
}
"""Keys by which a file of another trainer is recognised: what it is, and what to do with it."""


def explains_foreign_keys(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator of functions that read a config: their errors name our key for each key of another trainer."""

    @functools.wraps(function)
    def explaining(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except ConfigError as error:
            raise explain(error) from None

    return explaining


def explain(error: ConfigError) -> ConfigError:
    """The error with our keys for those of other trainers; one short error for a whole file of another trainer."""
    unknown = [problem.where for problem in error.problems if problem.found == UNKNOWN_KEY]
    for key in FOREIGN_FILES:
        if key in unknown:
            return foreign_file(key, error.source, unknown)

    if not unknown:
        return error
    return ConfigError(explained_problems(error.problems, foreign_keys()), error.source)


def explained_problems(problems: Sequence[Problem], advice: Mapping[str, str]) -> list[Problem]:
    """The problems, with `advice` for each unknown key that is another trainer's."""
    result: list[Problem] = []
    # Only the first unknown key of a table lists the allowed keys. If advice replaces that list, the next one shows it.
    pending_lists: dict[str, str] = {}
    for problem in problems:
        table, _, key = problem.where.rpartition(".")
        if problem.found == UNKNOWN_KEY and key in advice and not problem.remedy.startswith("write "):
            pending_lists[table] = problem.allowed or pending_lists.get(table, "")
            problem = replace(problem, allowed="", remedy=advice[key])
        elif problem.found == UNKNOWN_KEY and not problem.remedy:
            problem = replace(problem, allowed=problem.allowed or pending_lists.pop(table, ""))
        result.append(problem)
    return result


def foreign_file(key: str, source: str, keys: Sequence[str] = ()) -> ConfigError:
    """The error for a file of another trainer, recognised by a key of it. `keys`: all that are not ours."""
    from lorasmith.compat.detect import script_of_file

    what, remedy = FOREIGN_FILES[key]
    # the script is found by reading the file, which the reader of the file itself, who reports it here, must not repeat
    script = script_of_file(Path(source), keys) if "{script}" in remedy else ""
    return ConfigError([Problem("", what, remedy=remedy.format(file=source, script=script))], source)


@functools.cache
def foreign_keys() -> dict[str, str]:
    """What to write here in place of each option of another trainer's script."""
    from lorasmith.compat.kohya.dataset import DATASET_KEYS, IMAGE_KEYS, SUBSET_KEYS
    from lorasmith.compat.script import Action, all_scripts

    # sd-scripts first: its names are the ones that most people know
    training = [script for script in all_scripts().values() if not issubclass(script, Action)]
    scripts = sorted(training, key=lambda script: "sd-scripts" not in script.origin)
    options = [(option, script.origin) for script in scripts for option in script.options]
    options += [(option, scripts[0].origin) for option in (*IMAGE_KEYS, *DATASET_KEYS, *SUBSET_KEYS)]
    table: dict[str, str] = {}
    for option, origin in options:
        advice = describe_option(option, origin)
        if advice:
            table.setdefault(option.name, advice)
    return table


def describe_option(option: Option, origin: str) -> str:
    """The advice for one option; empty if the table of the script has nothing to say."""
    origin = origin.removeprefix("kohya-ss/")
    if option.to:
        return f"write {option.to} ({origin} calls it {option.name})"
    if option.state == "no_effect":
        return f"leave out this option of {origin}: {option.note}"
    return ""
