"""Signals at a random moment, or at an operation on a file."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from tools.torture.processes import Ended, run_with_action, start
from tools.torture.workshop import Case, Workshop

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LAST_OPERATION = 150
"""About as many operations on files has a whole run."""


def interruptions(folder: Path, count: int, kinds: list[str]) -> list[Case]:
    """`count` cases over the kinds in turn."""
    cases: list[Case] = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        chosen = SIGNALS[number // 2 % len(SIGNALS)]
        # every fourth run also fills its cache
        cold = number % 4 == 3
        inject = signal_at_operation if number % 2 else signal_at_moment
        name = f"{number}: {kind}, {chosen.name} {'at a file operation' if number % 2 else 'at a moment'}"
        cases.append(Case(name, kind, folder / f"run-{number}", inject, cold))
    return cases


def signal_of(case: Case) -> signal.Signals:
    """The signal that a case is named after."""
    return next(number for number in SIGNALS if number.name in case.name)


def signal_at_operation(shop: Workshop, case: Case, rng: random.Random) -> Ended:
    """Of several ranks it is the first one, which writes the files, that gets the signal."""
    at, number = rng.randrange(1, LAST_OPERATION), int(signal_of(case))
    action = f"import os\nif os.environ.get('RANK', '0') == '0': os.kill(os.getpid(), {number})"
    return run_with_action(shop.command(case), case.output, at, action, case.ranks)


def signal_at_moment(shop: Workshop, case: Case, rng: random.Random) -> Ended:
    """Of several ranks any one gets the signal, or all of them."""
    number = signal_of(case)
    ranks = list(range(case.ranks))
    receivers = rng.choice([*[[rank] for rank in ranks], ranks])
    started = start(shop.command(case), case.ranks)
    time.sleep(rng.uniform(0.3, 1.0) * shop.seconds[case.kind])
    started.send(number, receivers)
    ended = started.wait()
    # before Python has set its handlers, Ctrl-C ends the imports with a traceback of the interpreter
    if number == signal.SIGINT and "KeyboardInterrupt" in ended.messages:
        return Ended(ended.codes, "")
    return ended
