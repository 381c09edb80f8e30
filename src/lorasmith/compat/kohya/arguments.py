"""`key=value` arguments, as `network_args` and `optimizer_args` have them."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lorasmith.compat.options import Option
from lorasmith.core.errors import Problem, did_you_mean


@dataclass
class Arguments:
    """Texts by name, taken one by one; `rest` says what nobody took."""

    where: str
    texts: dict[str, str]
    problems: list[Problem]
    asked: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, where: str, items: Iterable[str] | None, problems: list[Problem]) -> Arguments:
        """Of `["conv_dim=8", ...]`."""
        texts = {}
        for item in items or ():
            key, sign, value = str(item).partition("=")
            if sign:
                texts[key.strip()] = value.strip()
            else:
                problems.append(Problem(where, f'"{item}"', "arguments of the form key=value"))
        return cls(where, texts, problems)

    def take(self, option: Option) -> Any:
        """A value in its type, or the option's default."""
        self.asked.add(option.name)
        text = self.texts.pop(option.name, None)
        try:
            value = option.parse(text)
        except ValueError as error:
            self.problems.append(Problem(f"{self.where}.{option.name}", f"found {text!r}", str(error)))
            value = None
        return option.default if value is None else value

    def flag(self, name: str) -> bool:
        return bool(self.take(Option(name, "flag", False)))

    def int(self, name: str, default: int | None = None) -> Any:
        return self.take(Option(name, "int", default))

    def float(self, name: str, default: float | None = None) -> Any:
        return self.take(Option(name, "float", default))

    def text(self, name: str, default: str = "") -> str:
        return self.take(Option(name, "text", default))

    def literal(self, name: str) -> Any:
        """A value as Python would read it; else its text."""
        self.asked.add(name)
        return literal(self.texts.pop(name))

    def refuse(self, name: str, remedy: str) -> None:
        """An argument that cannot be done, if it is used."""
        self.asked.add(name)
        text = self.texts.pop(name, None)
        if text is not None and text.strip().lower() not in ("", "none", "false", "0", "0.0"):
            self.problems.append(Problem(f"{self.where}.{name}", "is not supported", remedy=remedy))

    def drop(self, name: str) -> None:
        """An argument that is pointless here."""
        self.asked.add(name)
        self.texts.pop(name, None)

    def rest(self) -> list[str]:
        """Warnings about what nobody asked for."""
        return [f"unknown {self.where} {k} is left out. {did_you_mean(k, self.asked)}".strip() for k in self.texts]


def literal(text: str) -> Any:
    """A Python literal, or the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
