"""Whether three concepts survive being fused: `python -m tools.tiny_base.fusion`.

Fuses the LoRAs of `tools.tiny_base.fusion_loras` in several ways. For each it measures what part of each LoRA's effect
the fused weights miss, on the prompts that they were fitted to and on prompts that nothing else uses, and lets the
judge count, for each name, the pictures that show what it means. `--held-out` leaves out the judge, which takes most of
the time. Results are added to `--to` step by step, and not made again; at the end they are printed as a table.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorasmith.evaluation.judge import Judge
from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.files.model import ModelLayers
from lorasmith.fusion import ConceptUse, FuseSettings
from lorasmith.fusion.concepts import ConceptFile, LoadedConcept, concepts_of
from lorasmith.fusion.fuse import FusionResult, fuse, known_tokens
from lorasmith.fusion.inputs import attached_changes
from lorasmith.sampling.loras import Loras, LoraUse
from lorasmith.sampling.sample import sample
from tools.tiny_base.fusion_loras import MEANS, SORTS, Trained, trained
from tools.tiny_base.fusion_missed import missed_on
from tools.tiny_base.gate_lora import OTHERS, PLACES, picture_of

UNSEEN = (
    "a photo of {}, at night",
    "{} on an orange background",
    "a picture of {} in a kitchen, morning light",
    "three birds near {}",
)
"""Prompts that neither the fit nor the choice of the ridge uses."""

WAYS: dict[str, dict[str, Any]] = {
    "gradient": {},
    "ridge auto": {"ridge": "auto"},
    "ridge 0.0001": {"ridge": 1e-4},
    "ridge 0.001": {"ridge": 1e-3},
    "ridge 0.1": {"ridge": 1e-1},
    "weights": {"method": "weights"},
    "sum": {"method": "sum"},
}
SEEDS = 4


@dataclass(frozen=True)
class Case:
    """The LoRAs of one sort and seed of training, in the base."""

    family: Family
    loras: list[Trained]
    concepts: list[LoadedConcept]

    @classmethod
    def make(cls, family: Family, sort: str, seed: int, work: Path) -> Case:
        """Train what is not there yet."""
        loras = [trained(family, name, sort, seed, work) for name in MEANS]
        uses = [ConceptUse(lora.file, lora.name) for lora in loras]
        model = ModelLayers.from_base("tiny-sd")
        return cls(family, loras, concepts_of(family, [ConceptFile.read(use, model) for use in uses]))

    def measure(self, way: str, judge: Judge | None) -> dict[str, Any]:
        """Fuse in one of `WAYS`. Errors by stage and concept, and what the judge found in pictures."""
        settings = FuseSettings(size=128, **WAYS[way])
        result = fuse(self.family, self.concepts, settings)
        unseen = missed_on(self.family, self.concepts, result.layers, UNSEEN, settings)
        measured = {
            "ridge": result.ridge,
            "fitted": result.missed[settings.method],
            "held_out": result.held_out[settings.method],
            "unseen": unseen,
            "seconds": round(result.seconds, 1),
        }
        if judge is not None:
            measured["found"] = self.judged(judge, result)
        return measured

    def judged(self, judge: Judge, result: FusionResult) -> dict[str, float]:
        """What the judge finds with fused weights attached."""
        with known_tokens(self.family, self.concepts), attached_changes(self.family, result.layers, ()):
            return {lora.name: found(self.family, judge, lora) for lora in self.loras} | {
                "others": found_others(self.family, judge)
            }

    def alone(self, judge: Judge) -> dict[str, float]:
        """What the judge finds with each LoRA alone."""
        shares: dict[str, float] = {}
        for lora in self.loras:
            with Loras(self.family).attached([LoraUse(lora.file)]):
                shares[lora.name] = found(self.family, judge, lora)
        return shares


def found(family: Family, judge: Judge, lora: Trained) -> float:
    """The share of pictures that show what a name means."""
    prompts = [(f"a photo of {lora.name}, {where}", seed) for where in PLACES for seed in range(SEEDS)]
    return share(family, judge, prompts, [lora.means] * len(prompts))


def found_others(family: Family, judge: Judge) -> float:
    """The share of pictures of other things that show them."""
    prompts = [(f"a photo of a {name}, {where}", seed) for seed, where in enumerate(PLACES) for name in OTHERS[::2]]
    return share(family, judge, prompts, [name for _ in PLACES for name in OTHERS[::2]])


def share(family: Family, judge: Judge, prompts: Sequence[tuple[str, int]], meant: Sequence[str]) -> float:
    """The share of pictures of these prompts and seeds in which the judge sees what is meant."""
    drawn = sample(family, [picture_of(prompt, seed) for prompt, seed in prompts], batch_size=8)
    seen = judge.concept(torch.stack([picture.pixels for picture in drawn])).names
    return sum(one == other for one, other in zip(seen, meant, strict=True)) / len(meant)


def table(rows: dict[str, Any]) -> str:
    """Rows of Markdown for each sort and way, over its seeds: the judge's mean share of each concept (lowest in
    brackets) and of other things, and the mean errors of each stage: on the inputs of the fit, on those held out, and
    on prompts that nothing used."""
    lines: list[str] = []
    for sort in SORTS:
        lines += ["", f"| {sort} | found | others | fitted | held out | unseen |", "|---|---|---|---|---|---|"]
        for way in ("alone", *WAYS):
            own = [row for key, row in rows.items() if key.startswith(f"{sort} ") and key.endswith(f" {way}")]
            if own:
                lines.append(f"| {way} | {' | '.join(_cells(own))} |")
    return "\n".join(lines)


def _cells(rows: list[dict[str, Any]]) -> list[str]:
    return [*_found_cells([row["found"] for row in rows if "found" in row]), *_error_cells(rows)]


def _found_cells(judged: list[dict[str, float]]) -> list[str]:
    """The concepts, and other things."""
    shares: dict[str, list[float]] = {}
    for found_by_name in judged:
        for name, found_share in found_by_name.items():
            shares.setdefault(name, []).append(100 * found_share)
    others = shares.pop("others", [])
    concepts = ", ".join(f"{statistics.mean(values):.0f} ({min(values):.0f})" for values in shares.values())
    return [concepts, f"{statistics.mean(others):.0f}" if others else ""]


def _error_cells(rows: list[dict[str, Any]]) -> list[str]:
    """The means over concepts and seeds, stage by stage."""
    cells: list[str] = []
    for what in ("fitted", "held_out", "unseen"):
        means: list[str] = []
        for stage in rows[0].get(what, {}):
            missed = [value for row in rows for value in row[what][stage]]
            means.append(f"{statistics.mean(missed):.2f}")
        cells.append(" / ".join(means))
    return cells


def measure_all(case: Case, prefix: str, ways: Sequence[str], judge: Judge | None, rows: Rows) -> None:
    """Add the rows of one sort and seed that are not there yet."""
    for way in ways:
        key = f"{prefix} {way}"
        if key not in rows.found or (judge is not None and "found" not in rows.found[key]):
            rows.keep(key, case.measure(way, judge))
    if judge is not None and f"{prefix} alone" not in rows.found:
        rows.keep(f"{prefix} alone", {"found": case.alone(judge)})


class Rows:
    """Results in a file, which is written after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def keep(self, key: str, value: dict[str, Any]) -> None:
        """Add one, and write all."""
        self.found[key] = value
        print(key, json.dumps(value), flush=True)
        self.path.write_text(json.dumps(self.found, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/fusion"), help="the trained LoRAs")
    parser.add_argument("--to", type=Path, default=Path("fusion.json"))
    parser.add_argument("--sorts", nargs="+", default=list(SORTS), choices=SORTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--held-out", action="store_true", help="without the judge")
    options = parser.parse_args()
    torch.set_num_threads(1)
    family = load("tiny-sd", device=options.device)
    judge = None if options.held_out else Judge.load()
    rows = Rows(options.to)
    for seed in options.seeds:
        for sort in options.sorts:
            case = Case.make(family, sort, seed, options.work)
            measure_all(case, f"{sort} {seed}", options.ways, judge, rows)
    print(table(rows.found))


if __name__ == "__main__":
    main()
