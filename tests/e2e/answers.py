"""What a command gives back, and what a clear message is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Answer:
    """What a command gave back."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


Program = Callable[..., Answer]


def assert_clear(answer: Answer, *words: str, code: int = 1) -> None:
    """One message that holds the words, the exit code, and no traceback."""
    assert answer.code == code, answer.err
    assert "Traceback" not in answer.err
    assert answer.err.count("error:") == 1
    missing = [w for w in words if w not in answer.err]
    assert not missing, f"{missing} not in: {answer.err}"
