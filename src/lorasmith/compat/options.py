"""What a foreign script takes, and what becomes of it here.

A `Script` registers by being defined in a package under `lorasmith.compat`. It lists every option of the original, each
in one of four states, parses the original's command line and files, and converts the values to a config of ours.
Nothing is ignored in silence: what is set and cannot be done is an error that says what to use.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from lorasmith.core.errors import ConfigError, LorasmithError, Problem, did_you_mean
from lorasmith.core.progress import Progress

State = Literal["same", "better", "pointless", "refused"]
STATES: dict[State, str] = {
    "same": "same",
    "better": "same but correct",
    "pointless": "accepted and pointless here",
    "refused": "refused",
}
Type = Literal["flag", "int", "float", "steps", "text", "texts", "floats", "any"]
"""`steps`: a whole number of steps, or a share (`0.05`, `5%`); `texts`, `floats`: lists."""


@dataclass(frozen=True)
class Option:
    """One option of a foreign script.

    `note`: for `better` which fault is avoided, for `pointless` why, for `refused` what to use in its place;
    `to`: the key of our config it becomes; `choices`: allowed values, if they are few (compared without case).
    """

    name: str
    type: Type = "flag"
    default: Any = None
    state: State = "same"
    note: str = ""
    to: str = ""
    choices: tuple[str, ...] = ()

    def unset(self, value: Any) -> bool:
        """Whether `value` is as good as none: absent, empty, off, or the default."""
        return value is None or value is False or value in ("", [], ()) or value == self.default

    def read(self, value: Any) -> Any:
        """A value of a file or command line in this option's type; None if it is unset. Raises ValueError."""
        if value is None or (isinstance(value, str) and value.strip().lower() in ("", "none")):
            return None
        found = READERS[self.type](value)
        if self.choices and str(found).lower() not in (choice.lower() for choice in self.choices):
            raise ValueError(f"one of {', '.join(self.choices)}")
        return found


def _flag(value: Any) -> bool:
    if isinstance(value, bool | int | float):
        return bool(value)
    words = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
    if str(value).strip().lower() not in words:
        raise ValueError("true or false")
    return words[str(value).strip().lower()]


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError("a number")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError("a number") from None


def _int(value: Any) -> int:
    number = _number(value)
    if number != int(number):
        raise ValueError("a whole number")
    return int(number)


def _steps(value: Any) -> int | float:
    text = str(value).strip()
    if text.endswith("%"):
        return _number(text[:-1]) / 100
    number = _number(value)
    return int(number) if number == int(number) and (number >= 1 or number == 0) else number


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value)
    if isinstance(value, dict):
        raise ValueError("a text, not a table")
    return str(value)


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{key}={item}" for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [str(item) for item in value if str(item) != ""]
    return str(value).split()


def _floats(value: Any) -> list[float]:
    items = value if isinstance(value, list | tuple) else str(value).replace(",", " ").split()
    return [_number(item) for item in items]


READERS = {
    "flag": _flag,
    "int": _int,
    "float": _number,
    "steps": _steps,
    "text": _text,
    "texts": _texts,
    "floats": _floats,
    "any": lambda value: value,
}


@dataclass(frozen=True)
class Parsed:
    """Values of all options (defaults where nothing was given), what was given, and warnings.

    `done`: the command line asked for something else than training, and this was done.
    """

    values: dict[str, Any]
    given: frozenset[str] = frozenset()
    warnings: list[str] = field(default_factory=list)
    done: str = ""


@dataclass(frozen=True)
class Conversion:
    """A table for TrainConfig, and what a reader should know of it.

    `copies`: where the original would write its LoRA, by the name that it has in our run's folder; copied when a run is
    finished. `resume`: the run of ours to continue, or a checkpoint to go on from, in place of starting one; if
    `config` is empty, with its own settings.
    """

    config: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    copies: dict[str, Path] = field(default_factory=dict)
    resume: Path | None = None
    prepare: Callable[[Progress | None], None] | None = None
    """What is done before training, such as drawing class pictures."""
    makes: str = "LoRA"
    """What is in the files, for people."""
    look: Path | None = None
    """Draw the first batches into this file, and train nothing."""
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    """Environment variables that the options set: what no file or message may hold."""


class Script(ABC):
    """A foreign training script."""

    name: ClassVar[str]
    """As on the command line, without `.py`."""
    origin: ClassVar[str] = ""
    """Whose script it is, for people."""
    options: ClassVar[tuple[Option, ...]] = ()
    registered: ClassVar[dict[str, type[Script]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            Script.registered[cls.name] = cls

    def parse(self, argv: Sequence[str]) -> Parsed:
        """The original's command line. Raises ConfigError with everything that is wrong."""
        given, warnings = split_arguments(self.options, argv)
        return self.read(given, warnings)

    def read(self, given: Mapping[str, Any], warnings: list[str]) -> Parsed:
        """Given values in their types, with defaults for the rest; unknown keys become warnings."""
        known = {option.name: option for option in self.options}
        problems, found = [], {}
        for key, value in given.items():
            if key not in known:
                warnings.append(f"unknown option {key} is left out. {did_you_mean(key, known)}".strip())
                continue
            try:
                found[key] = known[key].read(value)
            except ValueError as error:
                problems.append(Problem(key, f"found {value!r}", str(error)))
        problems += [refusal(known[key]) for key, value in found.items() if is_refused(known[key], value)]
        if problems:
            raise ConfigError(problems, self.name)
        present = {key: value for key, value in found.items() if value is not None}
        values = {key: option.default for key, option in known.items()} | present
        return Parsed(values, frozenset(present), warnings)

    @abstractmethod
    def convert(self, parsed: Parsed) -> Conversion:
        """Our config for the values. Raises ConfigError with everything that cannot be done."""


class Action(Script):
    """A foreign script that does something else than train."""

    def convert(self, parsed: Parsed) -> Conversion:
        raise LorasmithError(f"{self.name} trains nothing, so there is no config to print; run it with lorasmith as")

    @abstractmethod
    def act(self, parsed: Parsed, progress: Progress | None) -> dict[str, Any]:
        """Do it; returns what there is to tell, by name."""


def is_refused(option: Option, value: Any) -> bool:
    """Whether an option that we refuse is really used."""
    return option.state == "refused" and not option.unset(value)


def refusal(option: Option) -> Problem:
    """Why an option is not accepted and what to do."""
    return Problem(option.name, "is not supported", remedy=option.note or "leave it out")


def split_arguments(options: Sequence[Option], argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """`--key=value`, `--key value`, `--flag` and `--list a b` as a table; words in no place become warnings.

    The last of several equal options counts, and a beginning that fits one option only stands for it, as in argparse.
    """
    known = {option.name: option for option in options}
    table: dict[str, Any] = {}
    warnings: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            warnings.append(f'"{word}" belongs to no option and is left out')
            continue
        key, sign, value = word[2:].partition("=")
        key = full_name(key, known)
        option = known.get(key)
        values = [] if sign else _following(words)
        if sign:
            table[key] = value
        elif option is not None and option.type == "flag":
            table[key] = True
            words[:0] = values
        elif option is not None and option.type in ("texts", "floats"):
            table[key] = values
        else:
            table[key] = values[0] if values else True
            words[:0] = values[1:]
    return table, warnings


def full_name(key: str, known: Mapping[str, Option]) -> str:
    """The option that a beginning stands for, or the key itself."""
    found = [name for name in known if name.startswith(key)]
    return key if key in known or len(found) != 1 else found[0]


def _following(words: list[str]) -> list[str]:
    taken = []
    while words and (not words[0].startswith("--") or words[0] == "--"):
        taken.append(words.pop(0))
    return taken


def find_script(name: str) -> Script:
    """The script called `name`, `name.py` or `some/path/name.py`. Raises LorasmithError if there is none."""
    scripts = all_scripts()
    word = PurePosixPath(name.replace("\\", "/")).name.removesuffix(".py")
    if word not in scripts:
        hint = did_you_mean(word, scripts)
        raise LorasmithError(f'"{name}" is no script that is known here. {hint} Known: {", ".join(sorted(scripts))}')
    return scripts[word]()


def all_scripts() -> dict[str, type[Script]]:
    """Every script by name."""
    package = importlib.import_module("lorasmith.compat")
    for module in pkgutil.iter_modules(package.__path__):
        if module.ispkg:
            importlib.import_module(f"lorasmith.compat.{module.name}")
    return dict(Script.registered)
