"""Record the first five losses of short runs: a fingerprint of everything that a training step computes.

    python -m tools.loss_fingerprints            # write tests/contract/loss_fingerprints.json
    python -m tools.loss_fingerprints --compare  # print the largest relative difference of each case

Each case is one run of five steps in fp32 on the CPU with one thread, on a tiny random base of one family. A changed
formula moves a loss by far more than rounding does, so `tests/contract/test_loss_fingerprints.py` compares with a
small tolerance. When a formula is changed on purpose, record again and give the reason in the commit message.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "tests" / "contract" / "loss_fingerprints.json"
FAMILIES = ("sd1", "sd2", "sdxl")
STEPS = 5
LORA = {"kind": "lora", "rank": 4, "alpha": 2}
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": LORA,
    "tlora": {"rank": 4, "alpha": 2},
    "dora": {"rank": 4, "alpha": 2},
    "loha": {"rank": 4, "alpha": 2},
    "lokr": {"rank": 4, "alpha": 2, "factor": 4},
    "dylora": {"rank": 4, "alpha": 2},
    "glora": {"rank": 4},
    "oft": {"block_size": 4},
    "boft": {"block_size": 4},
    "ia3": {},
    "norm": {},
    "full": {},
}
"""Settings of each adapter kind; a kind that is missing runs with its defaults."""
OBJECTIVES: dict[str, dict[str, Any]] = {
    "l1": {"loss": "l1"},
    "smooth_l1": {"loss": "smooth_l1"},
    "huber snr": {"loss": {"kind": "huber", "schedule": "snr"}},
    "huber exponential": {"loss": {"kind": "huber", "schedule": "exponential"}},
    "min_snr": {"weightings": ["min_snr"]},
    "debiased": {"weightings": ["debiased"]},
    "v_like": {"weightings": ["v_like"]},
    "offset": {"noise": [{"kind": "offset", "strength": 0.1, "adaptive": 0.05}]},
    "multires": {"noise": ["multires"]},
    "immiscible": {"noise": ["immiscible"]},
    "p2": {"weightings": ["p2"]},
    # at the default beta of 1000 the loss itself multiplies rounding by thousands
    "dco": {"kind": "dco", "beta": 5, "weightings": ["min_snr"]},
    "input_perturbation": {"noise": ["input_perturbation"]},
    "logit_normal": {"timesteps": "logit_normal"},
    "stratified": {"timesteps": "stratified"},
    "timestep range": {"timesteps": {"kind": "uniform", "min": 200, "max": 700}},
}
"""Settings of the objective, each run with a LoRA."""
SETTINGS: dict[str, dict[str, Any]] = {
    "v_prediction": {"prediction": "v_prediction"},
    "v_prediction min_snr": {"prediction": "v_prediction", "objective": {"weightings": ["min_snr"]}},
    "v_prediction debiased": {"prediction": "v_prediction", "objective": {"weightings": ["debiased"]}},
    "v_prediction v_scale": {"prediction": "v_prediction", "objective": {"weightings": ["v_scale"]}},
    "zero_terminal_snr": {"prediction": "v_prediction", "zero_terminal_snr": True},
    "text encoder": {"optimizer": {"kind": "adamw", "lr": 0.02, "text_lr": 0.01}},
    "new tokens and terms": {
        "concepts": [{"words": ["<garp>"], "init": ["dog"], "layerwise": True}],
        "optimizer": {"kind": "adamw", "lr": 0.02, "text_lr": 0.01},
        "objective": {"parts": ["attention_regularisation", "kde"]},
        "data": {"masks": "masks"},
    },
    "convolutions": {"adapter": {"kind": "lora", "rank": 4, "layers": "full", "conv_rank": 2}},
    "svd_down": {"adapter": {"kind": "lora", "rank": 4, "init": "svd_down"}},
    "scaled_adamw": {"optimizer": {"kind": "scaled_adamw", "lr": 0.02}},
}
"""Whole configurations, merged over the common one."""


@dataclass
class Case:
    """One run: its name, its family and what it changes in the common configuration."""

    name: str
    family: str
    changes: dict[str, Any] = field(default_factory=dict)


def cases() -> Iterator[Case]:
    """Every family with every adapter kind, every setting of the objective, and further configurations."""
    from lorasmith.adapters import AdapterConfig
    from lorasmith.core.registry import registered

    for family in FAMILIES:
        for kind in sorted(registered(AdapterConfig)):
            if module_of(registered(AdapterConfig)[kind]).startswith("lorasmith."):
                yield Case(f"{family} {kind}", family, {"adapter": {"kind": kind, **ADAPTERS.get(kind, {})}})
        for name, objective in OBJECTIVES.items():
            yield Case(f"{family} {name}", family, {"adapter": LORA, "objective": objective})
        for name, settings in SETTINGS.items():
            yield Case(f"{family} {name}", family, {"adapter": LORA, **settings})


def module_of(kind: type) -> str:
    return kind.__module__


def record(case: Case, workspace: Path) -> list[float]:
    """The losses of the five steps. `workspace` keeps bases and images for further cases."""
    from lorasmith.training.hooks.log import Log
    from lorasmith.training.session import prepared_run
    from lorasmith.training.step.loop import fit

    number = len(list(workspace.glob("run-*")))
    table = merged(common(case.family, workspace), case.changes)
    table["output"] = str(workspace / f"run-{number:03d}")
    if "masks" in table["data"]:
        table["data"]["masks"] = str(workspace / "masks")
    with prepared_run(table) as run:
        # no exports and reports: only the losses are wanted
        run.hooks = tuple(hook for hook in run.hooks if isinstance(hook, Log))
        fit(run)
    events = (Path(table["output"]) / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event["loss"] for event in map(json.loads, events) if event["event"] == "step"]


def common(family: str, workspace: Path) -> dict[str, Any]:
    """The configuration that all cases share. The rates are high, so that later losses depend on the updates."""
    return {
        "base": str(random_base(family, workspace)),
        "trigger": ["garp"],
        "steps": STEPS,
        "seed": 3,
        "prediction": "epsilon",
        "precision": "fp32",
        "device": "cpu",
        "data": {"images": str(pictures(workspace)), "resolution": 64, "batch_size": 2},
        "optimizer": {"kind": "adamw", "lr": 0.02, "unet_lr": 0.02, "text_lr": 0.0},
        "log": {"every_steps": 1, "tensorboard": False},
    }


def merged(table: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`table` with `changes`; tables of tables are merged too."""
    result = dict(table)
    for key, value in changes.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def random_base(family: str, workspace: Path) -> Path:
    """A tiny base with random weights, written once."""
    import torch

    from tools import make_random_sd

    folder = workspace / family
    if not folder.is_dir():
        make_random_sd.write(folder, family, tiny=True, layouts=("folder",), dtype=torch.float32, seed=1)
    return folder


def pictures(workspace: Path) -> Path:
    """Three small pictures with captions, and a mask for each."""
    from PIL import Image, ImageDraw

    folder, masks = workspace / "images", workspace / "masks"
    if folder.is_dir():
        return folder
    folder.mkdir()
    masks.mkdir()
    for i in range(3):
        box = (8 + 6 * i, 10, 40 + 6 * i, 50)
        picture = Image.new("RGB", (64, 64), (60 * i + 40, 120, 200 - 50 * i))
        ImageDraw.Draw(picture).ellipse(box, fill=(220, 60 * i + 30, 40))
        picture.save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a photo of <garp>, number {i}", encoding="utf-8")
        mask = Image.new("L", (64, 64))
        ImageDraw.Draw(mask).ellipse(box, fill=255)
        mask.save(masks / f"{i}.png")
    return folder


def difference(losses: list[float], recorded: list[float]) -> float:
    """The largest relative difference of two lists of losses."""
    if len(losses) != len(recorded):
        return float("inf")
    return max(abs(a - b) / max(abs(b), 1e-6) for a, b in zip(losses, recorded, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--compare", action="store_true", help="write nothing; print the differences")
    parser.add_argument("--target", type=Path, default=TARGET, help="the file of recorded losses")
    args = parser.parse_args()

    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        workspace = Path(temporary)
        os.environ["LORASMITH_CACHE"] = str(workspace / "cache")
        found = {case.name: record(case, workspace) for case in cases()}
    if not args.compare:
        text = ",\n".join(f"  {json.dumps(name)}: {json.dumps(losses)}" for name, losses in found.items())
        args.target.write_text(f"{{\n{text}\n}}\n", encoding="utf-8")
        return
    recorded = json.loads(args.target.read_text(encoding="utf-8"))
    for name, losses in found.items():
        print(f"{difference(losses, recorded.get(name, [])):.2e}  {name}")
    sys.exit(any(difference(losses, recorded.get(name, [])) > 1e-4 for name, losses in found.items()))


if __name__ == "__main__":
    main()
