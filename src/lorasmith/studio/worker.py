"""The helper process of the studio (`python -m lorasmith.studio.worker`): a JSON request a line, and a JSON answer.

It has what the server must not load: torch, and in the playground a model. It ends when its input ends.
"""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from lorasmith.core.errors import ConfigError, LorasmithError, Problem
from lorasmith.core.text_files import parse_toml

Send = Callable[[dict[str, Any]], None]


def check_text(send: Send, text: str, full: bool, trusted: bool = False) -> dict[str, Any]:
    """What `lorasmith check` says about a config, or with `full` false only about its keys and values.

    Code that the config names is imported only if it is `trusted`: the config may be of somebody else's run.
    """
    from lorasmith import api
    from lorasmith.training.output.folder import named_code

    table = parse_toml(text, Path("the config"))
    if table.get("plugins") and not trusted:
        return {"errors": [vars(code_problem(table["plugins"]))]}
    try:
        config = api.read_config(table)
    except ConfigError as error:
        return {"errors": [vars(problem) for problem in error.problems]}
    code = named_code(config)
    if code and not trusted:
        return {"errors": [vars(code_problem(code))]}
    return api.check(table).to_dict() if full else {"errors": []}


def code_problem(names: object) -> Problem:
    """Code that has not been imported."""
    return Problem(
        "plugins",
        f"the config names code: {names}",
        remedy="it is imported, and the rest checked, when you trust it",
    )


def make_recipe(send: Send, **answers: Any) -> dict[str, Any]:
    """The config that `lorasmith new` makes of the same answers."""
    from lorasmith import api

    return {"toml": api.new_config(**answers).text}


METHODS: dict[str, Callable[..., Any]] = {"check": check_text, "recipe": make_recipe}


def main() -> None:
    """Answer requests until there are none."""
    # Ctrl-C in the terminal of the studio is for the studio, which then closes the input of this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = sys.stdout
    with redirect_stdout(sys.stderr):
        for line in sys.stdin:
            answer(json.loads(line), output)


def answer(request: dict[str, Any], output: TextIO) -> None:
    """Answer one request."""

    def send(message: dict[str, Any]) -> None:
        print(json.dumps(message, default=str), file=output, flush=True)

    try:
        send({"result": METHODS[request["method"]](send, **request["parameters"])})
    except ConfigError as error:
        send({"error": str(error), "problems": [vars(problem) for problem in error.problems]})
    except LorasmithError as error:
        send({"error": str(error)})
    except Exception as error:
        traceback.print_exc()
        send({"error": f"a bug in Lorasmith ({type(error).__name__}: {error}); the terminal has its traceback"})


if __name__ == "__main__":
    main()
