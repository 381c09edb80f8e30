"""Builds the tiny base from public pictures: `python -m tools.tiny_base.build --out DIR --to FOLDER`.

Stages: VAE, judge, UNet with text encoder, garp's pictures, export. Each goes on from its files in DIR if it was
stopped, and is left out once its minutes are used up; on a CPU give it hours, on a GPU the defaults are enough.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tools.tiny_base import export, garp, sprites, train_judge, train_unet, train_vae

STAGES = ("vae", "judge", "unet", "garp", "export")


def build(out: Path, folder: Path, minutes: dict[str, float], stages: tuple[str, ...] = STAGES) -> None:
    """Run `stages` in order; `minutes` for `vae`, `judge` and `unet`. Files of stages under way lie in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    pictures = sprites.fetch(out / "pictures")
    ledger = out / "build.json"
    spent: dict[str, float] = json.loads(ledger.read_text()) if ledger.exists() else {}
    trainers = {
        "vae": lambda left: train_vae.train(train_vae.begin(out), pictures, out, left),
        "judge": lambda left: train_judge.train(pictures, out, left),
        "unet": lambda left: train_unet.train(pictures, out, left, samples=120_000, batch=512, lr=2e-3),
    }
    for stage in stages:
        if stage in trainers:
            left = minutes[stage] - spent.get(stage, 0.0)
            if left > 0:
                trainers[stage](left)
                spent[stage] = minutes[stage]
                ledger.write_text(json.dumps(spent))
        elif stage == "garp":
            garp.draw(pictures, folder.parent / "garp")
        else:
            print(f"{export.export(out, folder)} bytes in {folder}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(".work/tiny-base"))
    parser.add_argument("--to", type=Path, default=Path("src/lorasmith/assets/tiny-sd"))
    parser.add_argument("--vae-minutes", type=float, default=4.0)
    parser.add_argument("--judge-minutes", type=float, default=1.5)
    parser.add_argument("--unet-minutes", type=float, default=12.0)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    options = parser.parse_args()
    minutes = {"vae": options.vae_minutes, "judge": options.judge_minutes, "unet": options.unet_minutes}
    build(options.out, options.to, minutes, tuple(options.stages))


if __name__ == "__main__":
    main()
