"""summary.json: what a run consists of, for its report and for people."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from lorasmith.core.devices import device_name
from lorasmith.core.dtypes import dtype_name
from lorasmith.core.package import VERSION
from lorasmith.core.store import write_text

if TYPE_CHECKING:
    from lorasmith.training.run import Run

LIBRARIES = ("torch", "diffusers", "transformers", "safetensors", "bitsandbytes")
"""Libraries whose versions can change numerical results."""


def write_summary(run: Run) -> None:
    """Write `summary.json` into the run folder."""
    write_text(run.folder / "summary.json", json.dumps(summary(run), indent=1, default=str))


def summary(run: Run) -> dict[str, Any]:
    """Base model, adapter, data, length, versions and device as plain data."""
    config = run.config
    family = run.family
    # adapters hang in the module tree of the denoiser, but they are not part of the base model
    denoiser_with_adapters = sum(p.numel() for p in family.denoiser.parameters())
    denoiser_adapters = sum(p.numel() for p in run.adapters.parameters(family.denoiser_component))
    return {
        "name": config.file_name,
        "trigger": list(config.trigger),
        "base": {
            "source": family.source,
            "vae": config.vae,
            "merged": list(config.merge),
            "kind": family.kind,
            "parameters": denoiser_with_adapters - denoiser_adapters,
            "dtype": dtype_name(family.dtype),
            "prediction": family.prediction.name,
        },
        "adapter": {
            "kind": getattr(config.adapter, "kind", ""),
            "layers": len(run.adapters),
            "parameters": sum(p.numel() for p in run.parameters),
            "rank": getattr(config.adapter, "rank", None),
            "alpha": getattr(config.adapter, "alpha", None),
        },
        "data": run.dataset.summary(),
        "length": {
            "steps": run.length.steps,
            "epochs": round(run.length.epochs, 2),
            "steps_per_epoch": run.length.steps_per_epoch,
            "views_per_image": round(run.length.samples / max(1, len(run.dataset.records)), 1),
        },
        "device": device_name(run.device),
        "ranks": run.ranks.count,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of Lorasmith, Python and the libraries that can change numerical results, as far as installed."""
    by_name = {"lorasmith": VERSION, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            by_name[name] = version(name)
        except PackageNotFoundError:
            continue  # bitsandbytes is optional
    return by_name
