"""Command lines that start a script through a launcher, as they are copied from tutorials.

`accelerate launch --num_processes 2 train_network.py --config_file my.toml` names a script, its options, and how many
processes train. So do `torchrun`, `python -m accelerate.commands.launch`, and assignments such as
`CUDA_VISIBLE_DEVICES=1` in front. Options that only concern speed are dropped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from lorasmith.compat.script import Script, all_scripts
from lorasmith.core.errors import ConfigError, LorasmithError, Problem
from lorasmith.core.text_files import read_text
from lorasmith.core.yaml_files import parse_yaml

ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
PYTHON = re.compile(r"(python[\d.]*|py)$")
ACCELERATE = ("accelerate-launch", "accelerate.commands.launch")
TORCHRUN = ("torchrun", "torch.distributed.run", "torch.distributed.launch")
ACCELERATE_NAMES = ("accelerate", "accelerate.commands.accelerate_cli")
"""Programs that launch only if their first argument is `launch`."""

SPEED = re.compile(
    r"num_cpu_threads_per_process|dynamo_.*|main_process_.*|master_.*|rdzv_.*|standalone|multi_gpu|same_network"
    r"|enable_cpu_affinity|quiet|q|debug|downcast_bf16|machine_rank|node_rank|no_python|max_restarts|monitor_interval"
    r"|compute_environment|distributed_type|gradient_accumulation_steps|rdzv_backend|tee|t|log_dir|role|m|module"
)
"""Options of the launchers that change no result, or are read in another place."""
APPLIED = (
    "num_processes", "nproc_per_node", "num_machines", "nnodes", "mixed_precision", "config_file", "gpu_ids", "cpu",
    "use_cpu",
)  # fmt: skip


@dataclass(frozen=True)
class CommandLine:
    """A script and its arguments, and how its launcher was to start it."""

    script: str
    arguments: list[str]
    launcher: str = ""
    """Empty if the script was named without one."""
    processes: int | None = None
    """How many processes train; None: as many as the launcher would start by itself."""
    environment: dict[str, str] = field(default_factory=dict)
    mixed_precision: str | None = None
    notes: list[str] = field(default_factory=list)

    def arguments_for(self, script: Script) -> list[str]:
        """The arguments of the script. One that does not decide on its mixed precision has the launcher's."""
        defaults = {option.name: option.default for option in script.options}
        if self.mixed_precision is None or defaults.get("mixed_precision", "") is not None:
            return self.arguments
        # What the command line says comes later, and so counts.
        return [f"--mixed_precision={self.mixed_precision}", *self.arguments]

    def process_count(self, count_devices: Callable[[], int]) -> int:
        """How many processes train. `accelerate launch` alone starts one for each GPU, torchrun starts one."""
        if self.processes is not None:
            return self.processes
        if self.launcher != "accelerate launch" or self.environment.get("CUDA_VISIBLE_DEVICES") == "":
            return 1
        return max(1, count_devices())


def read_command(words: Sequence[str]) -> CommandLine:
    """A script with its arguments, where a launcher, an interpreter or assignments may precede the script.

    Raises LorasmithError if a launcher starts no script, ConfigError if its options have wrong values.
    """
    environment, rest = split_assignments(words)
    rest = without_interpreter(rest)
    if not rest:
        raise LorasmithError("the command line names no script; write for example: lorasmith as train_network ...")

    launcher, rest = split_launcher(rest)
    if not launcher:
        return CommandLine(rest[0], rest[1:], environment=environment)
    options, rest = split_options(rest)
    if not rest:
        raise LorasmithError(
            f"{launcher} names no script that is known; write its name after the launcher's options, for example: "
            "accelerate launch --num_cpu_threads_per_process 4 train_network.py --config_file my.toml. "
            f"Known: {', '.join(sorted(all_scripts()))}"
        )
    return apply_options(launcher, options, rest, environment)


def split_assignments(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The environment variables that a command line sets, and the command after them."""
    environment: dict[str, str] = {}
    rest = list(words)
    while rest and (ASSIGNMENT.match(rest[0]) or rest[0] == "env"):
        name, _, value = rest.pop(0).partition("=")
        if name != "env":
            environment[name] = value
    return environment, rest


def without_interpreter(words: list[str]) -> list[str]:
    """A command line without the interpreter of Python and its options, of which none matters here."""
    if not words or not PYTHON.match(program_name(words[0])):
        return words
    rest = words[1:]
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        # The module is the program.
        if option == "-m":
            break
        if option in ("-W", "-X"):
            del rest[:1]
    return rest


def program_name(word: str) -> str:
    """The name of a program without its folder and Windows' suffix."""
    return PurePosixPath(word.replace("\\", "/")).name.removesuffix(".exe")


def split_launcher(words: list[str]) -> tuple[str, list[str]]:
    """The launcher that a command line begins with (empty: none), and what follows it."""
    name = program_name(words[0])
    if name in ACCELERATE_NAMES:
        if words[1:2] != ["launch"]:
            raise LorasmithError(f'of "{name}", only "accelerate launch ... SCRIPT" is understood')
        return "accelerate launch", words[2:]
    if name in ACCELERATE:
        return "accelerate launch", words[1:]
    return ("torchrun", words[1:]) if name in TORCHRUN else ("", words)


def split_options(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """The options of a launcher by name, and the script with its arguments (empty if there is none)."""
    options: dict[str, str] = {}
    position = 0
    while position < len(words):
        word = words[position]
        # The value of an option is taken with it, so this word is the script, known or not.
        if not word.startswith("-") or is_script(word):
            return options, words[position:]
        name, equals_sign, value = word.lstrip("-").partition("=")
        position += 1
        follows = words[position] if position < len(words) else "-"
        if not equals_sign and not follows.startswith("-") and not is_script(follows):
            value = follows
            position += 1
        options[name.replace("-", "_")] = value
    return options, []


def is_script(word: str) -> bool:
    """Whether a word names a script: any file of Python, or a known name, also of a module (`library.train_db`)."""
    return word.endswith(".py") or word.rpartition(".")[2] in all_scripts()


def apply_options(launcher: str, options: dict[str, str], rest: list[str], environment: dict[str, str]) -> CommandLine:
    """The command line with what the launcher's options mean for it."""
    if launcher == "accelerate launch":
        options = accelerate_settings(options.get("config_file"), environment) | options
    problems: list[Problem] = []
    count = read_count(options, ("num_processes", "nproc_per_node"), problems)
    machines = read_count(options, ("num_machines", "nnodes"), problems)
    if (machines or 1) > 1:
        problems.append(
            Problem(
                "the launcher",
                f"starts a run on {machines} machines",
                remedy="start Lorasmith on each of them: torchrun --nnodes ... -m lorasmith as SCRIPT ... "
                "(docs/scaling.md)",
            )
        )
    if problems:
        raise ConfigError(problems, launcher)

    environment = environment | device_variables(options)
    unused = without_effect(options)
    notes = [f"{launcher}: no effect here: {', '.join(f'--{name}' for name in unused)}"] if unused else []
    script = rest[0] if rest[0].endswith(".py") else rest[0].rpartition(".")[2]
    return CommandLine(script, rest[1:], launcher, count, environment, options.get("mixed_precision"), notes)


def device_variables(options: Mapping[str, str]) -> dict[str, str]:
    """The environment variable that makes a run use the devices of the launcher's options."""
    if "cpu" in options or options.get("use_cpu", "false").lower() in ("", "true"):
        return {"CUDA_VISIBLE_DEVICES": ""}
    gpus = options.get("gpu_ids", "all")
    return {} if gpus == "all" else {"CUDA_VISIBLE_DEVICES": gpus}


def without_effect(options: Mapping[str, str]) -> list[str]:
    """The options that are given a value, may change results in the original, and have no effect here."""
    off = ("false", "no", "none", "[]", "{}")
    names = [name for name in options if name not in APPLIED and not SPEED.fullmatch(name)]
    return [name for name in names if options[name].lower() not in off]


def read_count(options: Mapping[str, str], names: Sequence[str], problems: list[Problem]) -> int | None:
    """A number of processes or machines, None if it is not given; adds a problem for anything but a number from 1."""
    for name in names:
        text = options.get(name)
        # torchrun's words for "one for each device" are what accelerate does without the option.
        if text is None or text in ("auto", "gpu", "cpu"):
            continue
        if not text.isdigit() or int(text) < 1:
            problems.append(Problem(f"--{name}", f'found "{text}"', "a whole number from 1"))
            return None
        return int(text)
    return None


def accelerate_settings(config_file: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """What `accelerate config` was answered, by option; empty if that was never run. Raises LorasmithError if the
    file is named and cannot be read."""
    path = Path(config_file) if config_file else default_settings_file(os.environ | dict(environment))
    if not config_file and not path.is_file():
        return {}
    content: Any = parse_yaml(read_text(path), path)
    if not isinstance(content, dict):
        raise LorasmithError(f"{path}: not a config file of accelerate, which holds keys with values")
    settings: dict[str, str] = {}
    for key in ("num_processes", "num_machines", "mixed_precision", "gpu_ids", "use_cpu"):
        value = content.get(key)
        # A count of -1 asks for the option.
        if value not in (None, "", -1):
            settings[key] = str(value)
    return settings


def default_settings_file(environment: Mapping[str, str]) -> Path:
    """Where `accelerate config` writes its answers."""
    cache = Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    home = Path(environment.get("HF_HOME") or cache / "huggingface").expanduser()
    return home / "accelerate" / "default_config.yaml"
