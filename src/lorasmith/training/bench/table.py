"""The result of a benchmark as a table that can be pasted into a page or an issue."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lorasmith.core.package import VERSION
from lorasmith.training.bench.measure import Figures
from lorasmith.training.bench.run import BenchResult

HEADS = ("", "batch", "images/s", "ms a step", "ratio", "CPU ms", "ratio", "peak GiB", "of the product", "start-up, s")


def markdown(result: BenchResult) -> str:
    """What was measured, the table, and how to read it."""
    what = f"{result.base}, {result.resolution} px, {result.precision}"
    lines = [f"Lorasmith {VERSION}, {result.device}, torch {result.torch}; {what}", ""]
    lines += ["| " + " | ".join(HEADS) + " |", "|" + " --- |" * len(HEADS)]
    lines += ["| " + " | ".join(cells(result, row)) + " |" for row in result.rows]
    lines += ["", "Medians; ratios to the first row of the same batch."]
    if result.product:
        lines.append(f"A matrix product made {min(result.products):.3g} to {max(result.products):.3g} TFLOP/s.")
    return "\n".join(lines) + "\n"


def cells(result: BenchResult, row: Figures) -> Sequence[str]:
    """One row of the table."""
    if row.error:
        return [row.label, str(row.batch), f"failed: {row.error}", *[""] * (len(HEADS) - 3)]
    low, high = min(row.steps), max(row.steps)
    return [
        row.label,
        str(row.batch),
        f"{row.images_a_second:.3g}",
        f"{1e3 * row.seconds:.4g} ({1e3 * low:.4g} - {1e3 * high:.4g})",
        f"{result.ratio(row):.2f}",
        f"{1e3 * row.cpu_seconds:.4g}",
        f"{result.cpu_ratio(row):.2f}",
        f"{row.peak_gib:.2f}",
        f"{100 * row.share(result.product):.1f} %" if row.tflop else "not known",
        f"{row.start_up:.1f}",
    ]


def as_json(result: BenchResult) -> str:
    """All figures, each turn included."""
    return json.dumps(result.plain(), indent=1) + "\n"
