"""Options of foreign scripts: their names, types and defaults, and what becomes of each of them here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from lorasmith.core.config import ALLOWED
from lorasmith.core.errors import ConfigError, Problem

State = Literal["same", "improved", "no_effect", "refused"]
STATES: dict[State, str] = {
    "same": "same",
    "improved": "improved",
    "no_effect": "accepted, no effect",
    "refused": "refused",
}
"""The states of an option, with the text that people see."""
Type = Literal["flag", "int", "float", "steps", "text", "texts", "floats", "any"]
"""`steps`: a whole number of steps, or a fraction of the run (`0.05`, `5%`); `texts`, `floats`: lists."""


@dataclass(frozen=True)
class Option:
    """One option of a foreign script.

    `state`: what becomes of it here.
    `note`: for `improved`, which fault of the original is avoided; for `no_effect`, the reason; for `refused`, what to
    use instead.
    `to`: the key of our config that it sets.
    `choices`: the allowed values, if there are few (compared without case).
    """

    name: str
    type: Type = "flag"
    default: Any = None
    state: State = "same"
    note: str = ""
    to: str = ""
    choices: tuple[str, ...] = ()
    shape: Any = None
    """The Python type of a value of type `any`, such as `list[float]`: what may be in tables and lists."""

    def is_unset(self, value: Any) -> bool:
        """Whether `value` changes nothing: absent, empty, off, or the default."""
        return value is None or value is False or value in ("", [], ()) or value == self.default

    def parse(self, value: Any) -> Any:
        """A value of a file or command line, converted to this option's type; None if it is unset.

        Unset are the empty text, `none`, and false where the option is not a flag.

        Raises ValueError with a description of what is allowed.
        """
        # TOML has no null, so files say `resume = false`; the originals then act as without the option.
        if value is None or (value is False and self.type != "flag"):
            return None
        # User interfaces write empty fields as "" or "None".
        if isinstance(value, str) and value.strip().lower() in ("", "none"):
            return None
        parsed = PARSERS[self.type](value)
        if self.shape is not None:
            require_shape(parsed, self.shape)
        allowed = [choice.lower() for choice in self.choices]
        if allowed and str(parsed).lower() not in allowed:
            raise ValueError(f"one of {', '.join(self.choices)}")
        return parsed


def require_shape(value: Any, shape: Any) -> None:
    """Raises ValueError, with the place inside of the value, if a table or list does not have the type `shape`."""
    try:
        TypeAdapter(shape).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # pydantic adds the member of a union that it tried, which is no key of the file
        place = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or is_key(part, value))
        allowed = ALLOWED.get(first["type"]) or first["msg"].removeprefix("Input should be ")
        raise ValueError(f"{place}: {allowed}" if place else allowed) from None


def is_key(name: str, value: Any) -> bool:
    """Whether a table, or one of the tables inside of it, has the key `name`."""
    if isinstance(value, dict):
        return name in value or any(is_key(name, inner) for inner in value.values())
    return isinstance(value, list) and any(is_key(name, inner) for inner in value)


BOOLEANS = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}


def parse_flag(value: Any) -> bool:
    if isinstance(value, bool | int | float):
        return bool(value)
    text = str(value).strip().lower()
    if text not in BOOLEANS:
        raise ValueError("true or false")
    return BOOLEANS[text]


def parse_float(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError("a number")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("a number") from None
    if not math.isfinite(number):
        raise ValueError("a finite number")
    return number


def parse_int(value: Any) -> int:
    number = parse_float(value)
    if number != int(number):
        raise ValueError("a whole number")
    return int(number)


def parse_steps(value: Any) -> int | float:
    """A whole number of steps, or a fraction of the run between 0 and 1."""
    text = str(value).strip()
    if text.endswith("%"):
        return parse_float(text[:-1]) / 100
    number = parse_float(value)
    # 1 is one step, not the whole run.
    is_count = number == int(number) and (number >= 1 or number == 0)
    return int(number) if is_count else number


def parse_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value)
    if isinstance(value, dict):
        raise ValueError("a text, not a table")
    # an option at the end of a command line, or before the next one
    if value is True:
        raise ValueError("a text; its value is missing")
    return str(value)


def parse_texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{key}={item}" for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [str(item) for item in value if str(item) != ""]
    if value is True:
        raise ValueError("texts; the values are missing")
    return str(value).split()


def parse_floats(value: Any) -> list[float]:
    items = value if isinstance(value, list | tuple) else str(value).replace(",", " ").split()
    return [parse_float(item) for item in items]


PARSERS = {
    "flag": parse_flag,
    "int": parse_int,
    "float": parse_float,
    "steps": parse_steps,
    "text": parse_text,
    "texts": parse_texts,
    "floats": parse_floats,
    "any": lambda value: value,
}
"""Type of an option to the function that converts its values."""


def split_arguments(options: Sequence[Option], argv: Sequence[str]) -> dict[str, Any]:
    """A command line (`--key=value`, `--key value`, `--flag`, `--list a b`) as a table.

    As in argparse, the last of several equal options counts, and a prefix of a single option's name selects it. Unknown
    options stay in the table. Raises ConfigError for arguments that belong to no option, where argparse stops too: they
    are the rest of a text without quotes, or an option without its dashes.
    """
    known = {option.name: option for option in options}
    table: dict[str, Any] = {}
    problems: list[Problem] = []
    key = ""
    position = 0
    while position < len(argv):
        # Only options start with two dashes; the values that no option takes come in a row.
        argument = argv[position]
        if not argument.startswith("--"):
            end = next_option(argv, position)
            problems.append(stray_problem(key, table.get(key), argv[position:end]))
            position = end
            continue
        position += 1
        key, equals_sign, value = argument[2:].partition("=")
        key = complete_name(key, known)
        if equals_sign:
            table[key] = value
            continue

        # Without "=", the values are the arguments up to the next option. How many of them belong to this option
        # depends on its type; what is left over is found in the next round.
        end = next_option(argv, position)
        option_type = known[key].type if key in known else "text"
        if option_type in ("texts", "floats"):
            table[key] = list(argv[position:end])
            position = end
        elif option_type == "flag" or position == end:
            table[key] = True
        else:
            table[key] = argv[position]
            position += 1
    if problems:
        raise ConfigError(problems, "the command line")
    return table


def next_option(argv: Sequence[str], start: int) -> int:
    """The index of the first option from `start` on, or the number of arguments."""
    for index in range(start, len(argv)):
        if argv[index].startswith("--") and argv[index] != "--":
            return index
    return len(argv)


def stray_problem(option: str, value: Any, arguments: Sequence[str]) -> Problem:
    """The problem of arguments that follow `option` and its value, and belong to no option."""
    rest = " ".join(arguments)
    if isinstance(value, str):
        return Problem(
            f"--{option}",
            f'the value is "{value}"; "{rest}" after it belongs to no option',
            remedy=f'put a text with spaces in quotes: --{option}="{value} {rest}"',
        )
    return Problem(rest, "belongs to no option", remedy="write options as --name=value")


def complete_name(prefix: str, known: Mapping[str, Option]) -> str:
    """The name of the only option that begins with `prefix`, or `prefix` itself."""
    if prefix in known:
        return prefix
    candidates = [name for name in known if name.startswith(prefix)]
    return candidates[0] if len(candidates) == 1 else prefix
