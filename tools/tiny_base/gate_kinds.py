"""Whether each adapter kind learns a character on the tiny base: `python -m tools.tiny_base.gate_kinds`.

Trains each of the recipes `kinds/...` through the command line and lets the judge look, as `gate_lora` does. Wanted:
garp in at least 75 % of the pictures. Results are added to the file `--to` after each recipe; those that are there are
not made again. At the end, a table of all.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

from lorasmith.core.recipes import FOLDER as RECIPES
from lorasmith.evaluation.judge import Judge
from lorasmith.families.load import load
from lorasmith.sampling.loras import Loras, LoraUse
from tools.tiny_base.gate_lora import score, train


def table(found: dict[str, Any], recipes: list[Path]) -> str:
    """The results as rows of Markdown; `garp` and `others` in percent, before training in the first row."""
    share = "{:.0%} | {:.0%}".format
    rows = ["| kind | lr | garp | others | seconds | parameters |", "|---|---|---|---|---|---|"]
    rows.append(f"| (base) | | {share(found['base']['garp'], found['base']['others'])} | | |")
    for recipe in recipes:
        rate, row = tomllib.loads(recipe.read_text())["optimizer"]["lr"], found[recipe.stem]
        facts = f"{share(row['garp'], row['others'])} | {row['seconds']:.0f} | {row['parameters']:,}"
        rows.append(f"| {recipe.stem} | {rate:g} | {facts} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", type=Path, nargs="*", default=sorted((RECIPES / "kinds").glob("*.toml")))
    parser.add_argument("--runs", type=Path, default=Path("runs/kinds"))
    parser.add_argument("--to", type=Path, default=Path("kinds.json"))
    parser.add_argument("--rounds", type=int, default=1, help="of 48 pictures")
    options = parser.parse_args()
    family, eye = load("tiny-sd"), Judge.load()
    for recipe in options.recipes:
        found = json.loads(options.to.read_text()) if options.to.exists() else {}
        found.setdefault("base", None)
        if found["base"] is None:
            found["base"] = score(family, eye, options.rounds)
        if recipe.stem not in found:
            folder = options.runs / recipe.stem
            answer = train(recipe, folder)
            summary = json.loads((folder / "summary.json").read_text())["adapter"]
            facts = {"seconds": round(answer["seconds"], 1), "parameters": summary["parameters"]}
            with Loras(family).attached([LoraUse(Path(answer["file"]))]):  # with its new words, if it has any
                found[recipe.stem] = score(family, eye, options.rounds) | facts | {"layers": summary["layers"]}
            print(recipe.stem, json.dumps(found[recipe.stem]), flush=True)
        options.to.write_text(json.dumps(found, indent=1) + "\n")
    print(table(json.loads(options.to.read_text()), options.recipes))


if __name__ == "__main__":
    main()
