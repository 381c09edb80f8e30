"""summary.json: what the run was made of, for the report and for people."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch

import lorasmith
from lorasmith.core.store import write_text

if TYPE_CHECKING:
    from lorasmith.training.run import Run


def write_summary(run: Run) -> None:
    """Write `summary.json` into the run folder."""
    write_text(run.folder / "summary.json", json.dumps(summary(run), indent=1, default=str))


def summary(run: Run) -> dict[str, Any]:
    """Base, adapter, data, length, versions and device as plain data."""
    family, adapter = run.family, run.config.adapter
    return {
        "name": run.config.file_name,
        "trigger": list(run.config.trigger),
        "base": {
            "source": family.source,
            "vae": run.config.vae,
            "merged": list(run.config.merge),
            "kind": family.kind,
            "parameters": sum(p.numel() for p in family.unet.parameters()) - _adapter_part(run, "unet"),
            "dtype": str(family.dtype).removeprefix("torch."),
            "prediction": family.prediction,
        },
        "adapter": {
            "kind": getattr(adapter, "kind", ""),
            "layers": len(run.adapters),
            "parameters": sum(p.numel() for p in run.parameters),
            "rank": getattr(adapter, "rank", None),
            "alpha": getattr(adapter, "alpha", None),
        },
        "data": run.dataset.summary(),
        "length": {
            "steps": run.length.steps,
            "epochs": round(run.length.epochs, 2),
            "steps_per_epoch": run.length.steps_per_epoch,
            "views_per_image": round(run.length.samples / max(1, len(run.dataset.records)), 1),
        },
        "device": _device(run.device),
        "ranks": run.ranks.count,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of Lorasmith, Python and the libraries that decide numbers."""
    found = {"lorasmith": lorasmith.__version__, "python": platform.python_version()}
    for name in ("torch", "diffusers", "transformers", "safetensors", "bitsandbytes"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _adapter_part(run: Run, component: str) -> int:
    """Adapters hang in the UNet's module tree; they are no part of the base."""
    return sum(p.numel() for p in run.adapters.parameters(component))


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)"
