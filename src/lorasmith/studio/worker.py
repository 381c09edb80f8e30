"""The helper process of the studio (`python -m lorasmith.studio.worker`): a JSON request a line, and a JSON answer.

It has what the server must not load: torch, and in the playground a model. It ends when its input ends. The line
`{"method": "cancel"}` stops the request under way; it is not answered.
"""

from __future__ import annotations

import json
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from lorasmith.core.errors import ConfigError, LorasmithError, Problem
from lorasmith.core.out_of_memory import is_out_of_memory
from lorasmith.core.text_files import parse_toml

Send = Callable[[dict[str, Any]], None]
CANCEL = "cancel"
CANCELLED = threading.Event()
"""Set when the request under way is to be stopped."""


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


def draw(send: Send, **parameters: Any) -> dict[str, Any]:
    """Draw pictures with a model that stays loaded; see `drawing.py`."""
    # only the process of the playground loads what it draws with
    from lorasmith.studio.drawing import DRAWER

    return DRAWER.draw(send, CANCELLED, **parameters)


def inspect(send: Send, file: str) -> dict[str, Any]:
    """What `lorasmith inspect` says about a file."""
    from lorasmith import api

    return api.inspect(file)


METHODS: dict[str, Callable[..., Any]] = {
    "check": check_text,
    "recipe": make_recipe,
    "draw": draw,
    "inspect": inspect,
}


def main() -> None:
    """Answer requests until there are none."""
    # Ctrl-C in the terminal of the studio is for the studio, which then closes the input of this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = sys.stdout
    requests: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=read_requests, args=(sys.stdin, requests.put), daemon=True).start()
    with redirect_stdout(sys.stderr):
        while (request := requests.get()) is not None:
            answer(request, output)


def read_requests(lines: Iterable[str], put: Callable[[dict[str, Any] | None], None]) -> None:
    """Pass on each request, and None at the end of the input; a request under way is notified when it shall stop."""
    for line in lines:
        request = json.loads(line)
        if request["method"] == CANCEL:
            CANCELLED.set()
        else:
            # requests come one after the other: what was cancelled before has ended
            CANCELLED.clear()
            put(request)
    CANCELLED.set()
    put(None)


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
        if is_out_of_memory(error):
            send({"error": f"{request['method']}: there was not enough memory ({first_line(error)})"})
            return
        traceback.print_exc()
        send({"error": f"a bug in Lorasmith ({type(error).__name__}: {error}); the terminal has its traceback"})


def first_line(error: Exception) -> str:
    """The first line of what an error says; those of torch have many."""
    return (str(error).splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    main()
