"""A whole session: interruptions, then faults, then the count."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tools.torture.faults import faults
from tools.torture.interruptions import interruptions
from tools.torture.workshop import Workshop, strays


@dataclass
class Tally:
    """What came out. `problems`: what went wrong, for people."""

    injected: int = 0
    survived: int = 0
    tried: int = 0
    exact: int = 0
    problems: list[str] = field(default_factory=list)


def torture(folder: Path, count: int, seed: int, kinds: list[str], fault_names: list[str]) -> Tally:
    """`count` interruptions over the kinds in turn, then the faults. Cases that `folder` has a record of are counted
    and not run again."""
    shop = Workshop(folder, seed)
    tally = Tally()
    cases = [*interruptions(folder, count, kinds), *faults(folder, fault_names)]
    for case in cases:
        outcome = shop.try_case(case)
        tally.injected += 1
        tally.survived += outcome.survived
        tally.tried += outcome.survived
        tally.exact += outcome.exact
        if outcome.problem:
            tally.problems.append(f"{outcome.case}: {outcome.problem}")
        mark = "ok" if not outcome.problem else "FAULT"
        print(f"[{tally.injected}/{len(cases)}] {mark:5s} {outcome.case}", flush=True)

    # the next session begins anew
    shop.record.replace(folder / "last-cases.jsonl")
    left = strays(folder)
    tally.problems += [f"left over: {path.relative_to(folder)}" for path in left]
    print(f"faults survived  {tally.survived} of {tally.injected}")
    print(f"runs exact       {tally.exact} of {tally.tried}")
    print(f"strays left      {len(left)}")
    for problem in tally.problems:
        print(f"  {problem}")
    return tally
