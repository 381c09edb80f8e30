"""Write a Stable Diffusion base model with random weights: a diffusers folder, one original-layout file, or both.

    python tools/make_random_sd.py OUT --folder --single          # full-size SD 1.5 in fp16
    python tools/make_random_sd.py OUT --tiny --kind sdxl --folder --single --dtype float32

For tests and measurements: it draws nothing, but has the names, shapes and sizes of the real thing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from lorasmith.families.stable_diffusion.random_base import configs, write
from lorasmith.families.stable_diffusion.source import PARTS

__all__ = ["configs", "write"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="the folder; the single file is OUT.safetensors")
    parser.add_argument("--kind", choices=list(PARTS), default="sd1")
    parser.add_argument("--tiny", action="store_true", help="the same topology with small widths")
    parser.add_argument("--folder", action="store_true", help="write the diffusers folder (the default)")
    parser.add_argument("--single", action="store_true", help="write the original-layout file")
    parser.add_argument("--dtype", choices=["float16", "bfloat16", "float32"], default="float16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    layouts = [name for name in ("folder", "single") if getattr(args, name)] or ["folder"]
    dtype = getattr(torch, args.dtype)
    write(args.out, args.kind, tiny=args.tiny, layouts=layouts, dtype=dtype, seed=args.seed)


if __name__ == "__main__":
    main()
