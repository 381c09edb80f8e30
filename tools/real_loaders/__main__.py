"""Writes the table. See the package's docstring."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import tools.real_loaders
from tools.real_loaders.a1111 import A1111
from tools.real_loaders.base import Weights
from tools.real_loaders.comfyui import ComfyUI
from tools.real_loaders.forge import Forge

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "tests" / "parity" / "consumers" / "programs.json"
TOLERANCE = 1e-5
"""Of the norm of a change."""
ROUNDING = 2 * torch.finfo(torch.float32).eps
"""Of the norm of a weight."""
PROGRAMS: dict[str, Any] = {"a1111": A1111, "forge": Forge, "comfyui": ComfyUI}


def effect(found: Weights | None, base: Weights, wanted: Weights) -> dict[str, list[str]]:
    """Of the layers and biases that training changed: `right`, `wrong` and `missing` (as in the base).

    Right is what differs from training's by less than `TOLERANCE` of the change, or by float32's rounding of the
    weight: a rotation within a small bound changes a weight by a thousandth, of which rounding is 4e-5.
    """
    names: dict[str, list[str]] = {"right": [], "wrong": [], "missing": []}
    for name, weight in wanted.items():
        change = (weight - base[name]).norm()
        if change == 0:
            continue
        if found is None or torch.equal(found[name], base[name]):
            names["missing"].append(name)
        elif (found[name].reshape(weight.shape) - weight).norm() <= max(TOLERANCE * change, ROUNDING * weight.norm()):
            names["right"].append(name)
        else:
            names["wrong"].append(name)
    others = set() if found is None else {n for n in found if n not in wanted and not torch.equal(found[n], base[n])}
    names["wrong"] += sorted(others)
    return names


def patterns(layers: list[str]) -> list[str]:
    """Names of layers with `*` for their numbers, each once."""
    return sorted({re.sub(r"\.\d+(?=\.|$)", ".*", layer) for layer in layers})


def verdict(names: Mapping[str, list[str]]) -> str:
    """`yes`, `partly`, `wrong` or `no`."""
    if names["wrong"]:
        return "wrong"
    return "no" if not names["right"] else "partly" if names["missing"] else "yes"


def run(programs: list[str], folder: Path) -> dict[str, Any]:
    """Program, family, row and format to what came of the file."""
    from program_cases import FAMILIES, base, cases, write_case  # pyright: ignore[reportMissingImports]

    made = {(name, family): PROGRAMS[name](family, base(family, folder)) for name in programs for family in FAMILIES}
    table: dict[str, Any] = {}
    for case in cases(folder):
        path = write_case(case, folder / "lora.safetensors")
        for name in programs:
            program = made[name, case.family]
            found, error = program.read(path)
            names = effect(found, program.weights(), case.trained)
            entry: dict[str, Any] = {"loads": verdict(names)}
            entry |= {kind: patterns(layers) for kind, layers in names.items() if layers and kind != "right"}
            if error:
                entry = {"loads": "no", "error": error}
            table.setdefault(program.name, {}).setdefault(case.family, {}).setdefault(case.row, {})[case.form] = entry
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=tools.real_loaders.__doc__)
    for name in PROGRAMS:
        parser.add_argument(f"--{name}", type=Path, help="folder with the program's source code")
    parser.add_argument("--out", type=Path, default=TABLE)
    given = vars(parser.parse_args())
    logging.disable(logging.CRITICAL)
    sys.path.insert(0, str(TABLE.parent))
    programs = [name for name in ("forge", "a1111", "comfyui") if given[name]]
    with tempfile.TemporaryDirectory() as folder:
        for name in programs:
            PROGRAMS[name].prepare(given[name].resolve())
        table = run(programs, Path(folder))
    given["out"].write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(
        f"{given['out']}: {sum(len(forms) for p in table.values() for f in p.values() for forms in f.values())} cells"
    )


if __name__ == "__main__":
    main()
