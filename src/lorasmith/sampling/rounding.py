"""What is left of a LoRA file on a base model that is stored in fp16 or fp8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lorasmith.adapters.rounding import STORED, RoundingLoss
from lorasmith.core.rounding_text import describe, warning
from lorasmith.families.load import load
from lorasmith.sampling.loras import load_lora


@torch.no_grad()
def rounding_of(file: Path, base: str, base_parts: Sequence[str] = ()) -> dict[str, Any]:
    """Rows for `inspect`, and `findings` where much is lost. Raises LorasmithError if the file does not fit the
    base."""
    adapters = load_lora(load(base, device="cpu", dtype=torch.float32, parts=base_parts), file)
    losses = {kind: RoundingLoss() for kind in STORED}
    for name, adapter in adapters.adapters.items():
        weight = adapters.weight_of(name).float()
        change = adapter.weight(weight) - weight
        for kind, loss in losses.items():
            loss.add(weight, change, STORED[kind])
    adapters.detach()
    rows: dict[str, Any] = {}
    findings: list[dict[str, str]] = []
    for kind, loss in losses.items():
        figures = loss.to_json()
        rows[f"in {kind}"] = describe(figures)
        if text := warning(kind, figures):
            findings.append({"severity": "note" if kind == "fp8" else "warning", "text": text})
    return rows | {"findings": findings}
