"""Training scripts of other programs, as classes that convert their options to a config of ours.

A `Script` registers by being defined in a package under `lorasmith.compat`. It lists every option of the original, each
in one of four states, parses the original's command line and files, and converts the values to a config.
No option is ignored silently: if an option is set that cannot be supported, the error says what to use instead.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from lorasmith.compat.options import Option, split_arguments
from lorasmith.compat.unsupported import UNSUPPORTED
from lorasmith.core.errors import ConfigError, LorasmithError, Problem, did_you_mean
from lorasmith.core.launch import find_launch
from lorasmith.core.progress import Progress


@dataclass(frozen=True)
class Parsed:
    """Values of all options (with defaults), the names of those that were given, and warnings."""

    values: dict[str, Any]
    given: frozenset[str] = frozenset()
    warnings: list[str] = field(default_factory=list)
    done_message: str = ""
    """Not empty if the command line requested something other than training, which is done already; says what."""


@dataclass(frozen=True)
class Conversion:
    """A table for TrainConfig, and everything else that running it needs."""

    config: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    """What the user should know: options without effect, and results that differ from the original's."""
    copy_targets: dict[str, Path] = field(default_factory=dict)
    """Files of the finished run (relative to its folder) to the places where the original would write them."""
    resume: Path | None = None
    """The run to continue, or a checkpoint to start from. If `config` is empty, with the run's own settings."""
    prepare: Callable[[Progress | None], None] | None = None
    """Called before training, for example to draw class images."""
    product: str = "LoRA"
    """What the files contain, as shown to the user."""
    first_batches_image: Path | None = None
    """If set, the first batches are drawn into this file and nothing is trained."""
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    """Environment variables that the options set. No file or message may contain their values."""

    def __post_init__(self) -> None:
        if "data" not in self.config:
            return
        # The original scripts train images without a caption on the empty text.
        self.config["data"].setdefault("empty_captions", True)

        # Their batch size is that of each process: one step has the batches of all processes. Ours is shared by the
        # processes, so the step gets as many batches.
        ranks = find_launch().count
        if ranks > 1:
            self.config["accumulation"] = ranks * self.config.get("accumulation", 1)
            self.notes.append(
                f"the batch size is that of each of the {ranks} processes, as in the original, so accumulation is "
                f"{self.config['accumulation']}"
            )


class Script(ABC):
    """A training script of another program."""

    name: ClassVar[str]
    """As on the command line, without `.py`."""
    origin: ClassVar[str] = ""
    """The program that the script belongs to, as shown to the user."""
    options: ClassVar[tuple[Option, ...]] = ()
    registered: ClassVar[dict[str, type[Script]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            Script.registered[cls.name] = cls

    def parse(self, argv: Sequence[str]) -> Parsed:
        """The values of the original's command line. Raises ConfigError with all problems."""
        given = split_arguments(self.options, argv)
        return self.read(given, [], command_line=given)

    def read(self, given: Mapping[str, Any], warnings: list[str], command_line: Collection[str] = ()) -> Parsed:
        """Given values in their types, with defaults for the others; unknown keys of files become warnings.

        `command_line`: names that were given as arguments; unknown ones of these are problems, as in argparse. Raises
        ConfigError with these, all values of a wrong type, and all refused options.
        """
        known = {option.name: option for option in self.options}
        problems: list[Problem] = []
        values = {option.name: option.default for option in self.options}
        present: set[str] = set()
        # All problems are collected, so that the user sees them at once.
        for name, raw in given.items():
            option = known.get(name)
            if option is not None:
                value = read_option(option, raw, problems)
                # An unset value leaves the default, and does not count as given.
                if value is not None:
                    values[name] = value
                    present.add(name)
            elif name in command_line:
                remedy = did_you_mean(name, known) or f"lorasmith as {self.name} --help lists all options"
                problems.append(Problem(f"--{name}", "unknown option", remedy=remedy))
            else:
                warnings.append(f"unknown option {name} is ignored. {did_you_mean(name, known)}".strip())
        if problems:
            raise ConfigError(problems, self.name)
        return Parsed(values, frozenset(present), warnings)

    @abstractmethod
    def convert(self, parsed: Parsed) -> Conversion:
        """The config for the values. Raises ConfigError with everything that cannot be converted."""


def read_option(option: Option, raw: Any, problems: list[Problem]) -> Any:
    """A given value in the option's type; None if it is unset, or if it is wrong, which is a problem."""
    try:
        value = option.parse(raw)
    except ValueError as error:
        problems.append(Problem(option.name, f"found {raw!r}", str(error)))
        return None
    if option.state == "refused" and not option.is_unset(value):
        problems.append(Problem(option.name, "is not supported", remedy=option.note or "remove it"))
    return value


class Action(Script):
    """A script of another program that does something other than train."""

    def convert(self, parsed: Parsed) -> Conversion:
        raise LorasmithError(f"{self.name} does not train, so it has no config to print; run it with: lorasmith as")

    @abstractmethod
    def act(self, parsed: Parsed, progress: Progress | None) -> dict[str, Any]:
        """Run the action; returns its results by name, as shown to the user."""


def find_script(name: str) -> Script:
    """The script called `name`, `name.py` or `some/path/name.py`. Raises LorasmithError if it is unknown."""
    scripts = all_scripts()
    # People copy the path from the original's command lines, on Windows with backslashes.
    stem = PurePosixPath(name.replace("\\", "/")).name.removesuffix(".py")
    if stem not in scripts and stem in UNSUPPORTED:
        raise LorasmithError(f"{stem} cannot be run here: {UNSUPPORTED[stem]}")
    if stem not in scripts:
        hint = did_you_mean(stem, scripts)
        raise LorasmithError(f'"{name}" is not a known script. {hint} Known: {", ".join(sorted(scripts))}')
    return scripts[stem]()


def all_scripts() -> dict[str, type[Script]]:
    """Every script by name. Importing the packages below `lorasmith.compat` registers them."""
    package = importlib.import_module("lorasmith.compat")
    for module in pkgutil.iter_modules(package.__path__):
        if module.ispkg:
            importlib.import_module(f"lorasmith.compat.{module.name}")
    return dict(Script.registered)
