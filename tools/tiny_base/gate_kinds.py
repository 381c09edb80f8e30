"""Whether each adapter kind learns a character on the tiny base: `python -m tools.tiny_base.gate_kinds`.

Trains each of the recipes `kinds/...` through the command line with several seeds and lets the judge look, as
`gate_lora` does. Wanted: garp in at least 75 %, and others down by at most 5 points. Each run is a process of its own;
results are added to `--to` as they come, and those that are there are not made again. At the end, a table of all.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

import torch

from lorasmith.core.devices import pick_device
from lorasmith.core.recipes import FOLDER as RECIPES
from lorasmith.evaluation.judge import Judge
from lorasmith.families.load import load
from lorasmith.sampling.loras import Loras, LoraUse
from tools.tiny_base.ablation import spread
from tools.tiny_base.gate_lora import score, train
from tools.tiny_base.seed_runs import RESULT, read_rows, run_jobs

KINDS = RECIPES / "kinds"


def one(kind: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and judge one recipe with one seed."""
    torch.set_num_threads(1)
    folder = options.runs / f"{kind}-{seed}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    table = tomllib.loads((KINDS / f"{kind}.toml").read_text("utf-8"))
    table.pop("preview", None)
    table |= {"seed": seed, "device": options.device, "log": {"tensorboard": False}}
    table |= {"steps": options.steps or table["steps"]}
    config = folder.with_suffix(".json")
    config.write_text(json.dumps(table))
    answer = train(config, folder)
    summary = json.loads((folder / "summary.json").read_text())["adapter"]
    family, eye = load("tiny-sd", device=pick_device(options.device)), Judge.load()
    with Loras(family).attached([LoraUse(Path(answer["file"]))]):  # with its new words, if it has any
        found = score(family, eye, options.rounds)
    facts = {"steps": table["steps"], "lr": table["optimizer"]["lr"], "parameters": summary["parameters"]}
    return {"kind": kind, "seed": seed, "seconds": round(answer["seconds"], 1)} | facts | found


def table_of(rows: list[dict[str, Any]]) -> str:
    """The results of each recipe as rows of Markdown: means in percent, with the worst and the best seed."""
    lines = ["| recipe | steps | lr | seeds | garp | others | parameters |", "|---|---|---|---|---|---|---|"]
    for kind in sorted({row["kind"] for row in rows}):
        own = [row for row in rows if row["kind"] == kind]
        shares = [spread([row[what] for row in own]) for what in ("garp", "others")]
        facts = [kind, str(own[0]["steps"]), f"{own[0]['lr']:g}", str(len(own)), *shares, f"{own[0]['parameters']:,}"]
        lines.append(f"| {' | '.join(facts)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=sorted(file.stem for file in KINDS.glob("*.toml")))
    parser.add_argument("--runs", type=Path, default=Path("runs/kinds"))
    parser.add_argument("--to", type=Path, default=Path("kinds.json"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="instead of those of the recipes, to try the set-up")
    parser.add_argument("--rounds", type=int, default=2, help="of 48 pictures")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", nargs=2, metavar=("KIND", "SEED"), help="this run alone; prints its result")
    options = parser.parse_args()
    if options.only:
        print(RESULT + json.dumps(one(options.only[0], int(options.only[1]), options)), flush=True)
        return
    rows = read_rows(options.to)
    done = {(row["kind"], row["seed"]) for row in rows}
    wanted = [(kind, s) for s in range(options.seeds) for kind in options.kinds if (kind, s) not in done]
    given = ["--device", options.device, "--runs", options.runs, "--rounds", options.rounds]
    given += ["--steps", options.steps] if options.steps else []
    run_jobs("tools.tiny_base.gate_kinds", wanted, given, rows, options.to, options.jobs)
    print(table_of(rows))


if __name__ == "__main__":
    main()
