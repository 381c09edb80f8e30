"""Composites as latents with their captions' tokens, made once and kept in memory."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from tools.tiny_base import captions, render, sprites, tokenizer
from tools.tiny_base.concepts import ALL_CONCEPTS


@dataclass(frozen=True)
class Latents:
    """`means` and `stds` (n, 4, 16, 16) float16 before scaling, `caption` (n,) rows of `tokens` (m, 77), `scale` = 1 /
    std of all latents."""

    means: Tensor
    stds: Tensor
    caption: Tensor
    tokens: Tensor
    empty: Tensor
    scale: float


def make(pictures: Path, vae: nn.Module, folder: Path, n: int, seed: int, device: str) -> Latents:
    """`n` composites of `seed`, of all concepts, encoded by `vae`; the tokenizer is written to `folder` if it is not
    there."""
    bank = sprites.training_bank(pictures, device, ALL_CONCEPTS)
    g, rng = Generator(device).manual_seed(seed), random.Random(seed)
    means, stds, rows, known = [], [], [], {}
    with torch.no_grad():
        for start in range(0, n, 512):
            batch = render.render(bank, render.choose(bank, min(512, n - start), g), g)
            dist = vae.encode(batch.images).latent_dist  # type: ignore[operator]
            means.append(dist.mean.half())
            stds.append(dist.std.half())
            for sprite, kind, second in zip(
                batch.sprites.tolist(), batch.background.tolist(), batch.second.tolist(), strict=True
            ):
                text = captions.caption(bank, sprite, kind, (second[0], second[1]), rng)
                rows.append(known.setdefault(text, len(known)))
    tok = tokenizer.load(folder)
    ids = tok(
        [*known, ""], padding="max_length", max_length=tokenizer.LENGTH, truncation=True, return_tensors="pt"
    ).input_ids.to(device)
    means = torch.cat(means)
    scale = 1 / means.float().std().item()
    print(f"latents: {n}, captions {len(known)}, std {1 / scale:.3f}", flush=True)
    return Latents(means, torch.cat(stds), torch.tensor(rows, device=device), ids[:-1], ids[-1], scale)
