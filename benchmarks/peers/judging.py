"""What the judge of the tiny base sees in pictures drawn with a LoRA: the same prompts, seeds and sampler for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lorasmith.evaluation.judge import Judge
from lorasmith.families.base import Family
from lorasmith.sampling.loras import Loras, LoraUse
from lorasmith.sampling.request import Request
from lorasmith.sampling.sample import sample
from tools.tiny_base.gate_lora import OTHERS, PLACES


@dataclass(frozen=True)
class Prompts:
    """What is drawn: the concept over four backgrounds, and twelve other things; `rounds` of 24 pictures each."""

    means: str
    rounds: int

    def of(self, word: str) -> tuple[list[Request], list[str]]:
        """Requests, and the name that the judge should find in each; the first half is the concept as `word`."""
        requests: list[Request] = []
        names: list[str] = []
        seeds = range(6 * self.rounds)
        for place in PLACES:
            requests += [_request(f"a photo of {word}, {place}", seed) for seed in seeds]
            names += [self.means] * len(seeds)
        places = list(PLACES)
        for seed in range(24 * self.rounds):
            other = OTHERS[seed % len(OTHERS)]
            article = "an" if other[0] in "ae" else "a"
            requests.append(_request(f"a photo of {article} {other}, {places[seed % len(places)]}", seed))
            names.append(other)
        return requests, names


def _request(prompt: str, seed: int) -> Request:
    return Request(prompt, seed=seed, cfg=5.0, width=128, height=128)


def draw(family: Family, requests: Sequence[Request]) -> Tensor:
    """Pictures (n, 3, 128, 128) in -1..1, on the CPU."""
    return torch.stack([picture.pixels.cpu() for picture in sample(family, requests, batch_size=24)])


def measure(
    loras: Loras, eye: Judge, uses: Sequence[LoraUse], prompts: Prompts, word: str, base: Tensor, training: Tensor
) -> tuple[dict[str, Any], Tensor]:
    """Numbers of each picture that is drawn with these LoRAs, and the pictures.

    `base`: the pictures of the other things without a LoRA, as `Prompts` orders them. `training`: the training pictures
    (n, 3, 128, 128). Drift is 1 - cosine of the judge's probabilities and the mean difference of pixels (0..1) to the
    base; copying is the cosine with the nearest training picture.
    """
    requests, names = prompts.of(word)
    with loras.attached(uses):
        pixels = draw(loras.family, requests)
    half = len(requests) // 2
    found = eye.concept(pixels)
    right = [int(seen == name) for seen, name in zip(found.names, names, strict=True)]
    vectors = F.normalize(found.table, dim=-1)
    base_vectors = F.normalize(eye.concept(base).table, dim=-1)
    return {
        "likeness": right[:half],
        "others": right[half:],
        "drift_features": ((vectors[half:] - base_vectors).square().sum(1) / 2).tolist(),
        "drift_pixels": ((pixels[half:] - base).abs().mean((1, 2, 3)) / 2).tolist(),
        "copying": nearest_of(pixels[:half], training),
    }, pixels


def nearest_of(pixels: Tensor, training: Tensor) -> list[float]:
    """The cosine of each picture with the nearest training picture, at a quarter of the size, so that small shifts do
    not hide a copy."""
    return (_small(pixels) @ _small(training).T).amax(1).tolist()


def _small(pixels: Tensor) -> Tensor:
    """Pictures as vectors of length 1 at 32 x 32, without their mean."""
    flat = F.interpolate(pixels, (32, 32), mode="area").flatten(1)
    return F.normalize(flat - flat.mean(1, keepdim=True), dim=1)
