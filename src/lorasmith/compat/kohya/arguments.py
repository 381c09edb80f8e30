"""`key=value` arguments, as in `network_args`, `optimizer_args` and `lr_scheduler_args`."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lorasmith.compat.options import Option
from lorasmith.core.errors import Problem, did_you_mean


@dataclass
class KeyValueArguments:
    """The arguments of one option. Each is taken out by the code that converts it; what remains is unknown."""

    option: str
    """The option that holds the arguments."""
    texts: dict[str, str]
    """The arguments that were not taken yet, by key."""
    problems: list[Problem]
    known: set[str] = field(default_factory=set)
    """Keys that the conversion has looked for; of these, the most similar one to an unknown key is suggested."""

    @classmethod
    def read(cls, option: str, items: Iterable[str] | None, problems: list[Problem]) -> KeyValueArguments:
        """From a list such as `["conv_dim=8", ...]`."""
        texts: dict[str, str] = {}
        for item in items or ():
            key, equals_sign, value = str(item).partition("=")
            if equals_sign:
                texts[key.strip()] = value.strip()
            else:
                problems.append(Problem(option, f'"{item}"', "arguments of the form key=value"))
        return cls(option, texts, problems)

    def take(self, option: Option) -> Any:
        """A value in the option's type, or the option's default. A wrong value is reported as a problem."""
        text = self._take_text(option.name)

        # After a wrong value the conversion goes on with the default, to find the other problems, too.
        try:
            value = option.parse(text)
        except ValueError as error:
            self.problems.append(Problem(f"{self.option}.{option.name}", f"found {text!r}", str(error)))
            value = None
        return option.default if value is None else value

    def take_flag(self, key: str) -> bool:
        return bool(self.take(Option(key, "flag", False)))

    def take_int(self, key: str, default: int | None = None) -> Any:
        return self.take(Option(key, "int", default))

    def take_float(self, key: str, default: float | None = None) -> Any:
        return self.take(Option(key, "float", default))

    def take_text(self, key: str, default: str = "") -> str:
        return self.take(Option(key, "text", default))

    def take_raw(self, key: str) -> str | None:
        """An argument as it is written, for which `none` is a value; None if it is not given."""
        return self._take_text(key)

    def take_literals(self) -> dict[str, Any]:
        """All remaining arguments, as Python literals where they can be read as such, else as text."""
        values: dict[str, Any] = {}
        for key in list(self.texts):
            text = self._take_text(key) or ""
            try:
                values[key] = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                values[key] = text
        return values

    def refuse(self, key: str, remedy: str) -> None:
        """Report an argument that is not supported, if it is used."""
        text = self._take_text(key)
        if text is not None and text.strip().lower() not in ("", "none", "false", "0", "0.0"):
            self.problems.append(Problem(f"{self.option}.{key}", "is not supported", remedy=remedy))

    def ignore(self, key: str) -> None:
        """Accept an argument that has no effect here."""
        self._take_text(key)

    def _take_text(self, key: str) -> str | None:
        self.known.add(key)
        return self.texts.pop(key, None)

    def unknown_warnings(self) -> list[str]:
        """A warning for each argument that was not taken."""
        return [
            f"unknown {self.option} {key} is ignored. {did_you_mean(key, self.known)}".strip() for key in self.texts
        ]
