"""What the stages share: device, time limit, moving averages, checkpoints in small files, notes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tools.tiny_base.sprites import Bank

SHARD = 12_000_000
"""Bytes of one checkpoint file, so that many stores accept it."""


@dataclass(frozen=True)
class Setup:
    """What a stage works with. `minutes` limits this call, `total` is what the learning rate's decay counts on."""

    out: Path
    bank: Bank
    held_out: Bank
    minutes: float
    total: float
    batch: int
    compiled: bool

    @property
    def device(self) -> torch.device:
        return self.bank.pixels.device


def pick_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def generator(device: torch.device, seed: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def mixed(device: torch.device) -> torch.autocast:
    """bfloat16 on a GPU; plain float32 on a CPU, where it is no slower at these widths."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def save(folder: Path, name: str, state: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Writes `state` as name-0.safetensors, name-1 ...: each written beside and renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, value in state.items():
        value = value.detach().to("cpu", dtype).contiguous()
        if size + value.nbytes > SHARD and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][key] = value
        size += value.nbytes
    for i, shard in enumerate(shards):
        path = folder / f"{name}-{i}.safetensors"
        save_file(shard, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)


def load(folder: Path, name: str) -> dict[str, Tensor]:
    """What `save` wrote, in float32; empty if there is nothing."""
    state: dict[str, Tensor] = {}
    for path in sorted(folder.glob(f"{name}-*.safetensors")):
        state |= {k: v.float() for k, v in load_file(path).items()}
    return state


def note(folder: Path, **facts: Any) -> dict[str, Any]:
    """Merges `facts` into state.json and returns all of it."""
    path = folder / "state.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known |= facts
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1) + "\n")
    return known


class Average:
    """Moving average of the weights of some modules; its memory grows with the steps, up to `decay`."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.live = [p for p in parameters if p.requires_grad]
        self.mean = [p.detach().clone() for p in self.live]
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        torch._foreach_lerp_(self.mean, self.live, 1 - min(self.decay, self.steps / (self.steps + 10)))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the live weights and the averages; call it twice to come back."""
        for p, m in zip(self.live, self.mean, strict=True):
            kept = p.detach().clone()
            p.copy_(m)
            m.copy_(kept)


@dataclass
class Progress:
    """Time, learning rate and progress lines of one stage, over several calls."""

    name: str
    minutes: float
    total: float
    peak: float
    before: float = 0.0
    steps: int = 0
    warmup: int = 100
    began: float = field(default_factory=time.monotonic)
    said: float = 0.0
    saved: float = field(default_factory=time.monotonic)
    loss: float = 0.0
    images: int = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def spent(self) -> float:
        """Seconds of training over all calls."""
        return self.before + self.seconds

    @property
    def over(self) -> bool:
        return self.seconds >= self.minutes * 60

    def rate(self) -> float:
        """Warm-up, then flat, then a cosine to a fiftieth over the last half of the total time."""
        share = min(self.spent / (self.total * 60), 1.0)
        decay = 1.0 if share < 0.5 else 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * (share - 0.5) * 2))
        return self.peak * min(1.0, (self.steps + 1) / self.warmup) * decay

    def step(self, optimizer: torch.optim.Optimizer, loss: Tensor, images: int) -> None:
        """After a step: sets the next learning rate, says where we are every ten seconds."""
        self.steps += 1
        self.images += images
        for group in optimizer.param_groups:
            group["lr"] = self.rate()
        if self.seconds - self.said > 10 or self.steps in (1, 20):
            self.said = self.seconds
            speed = self.images / self.seconds
            line = f"{self.name} {self.seconds:.0f}s step {self.steps} loss {loss.item():.4f} {speed:.0f} img/s"
            print(f"{line} lr {self.rate():.2e}", flush=True)

    def due(self, every: float = 60) -> bool:
        """Whether it is time for a checkpoint."""
        if time.monotonic() - self.saved < every:
            return False
        self.saved = time.monotonic()
        return True


def optimizer_for(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.AdamW:
    parameters = list(parameters)
    decayed = [p for p in parameters if p.ndim > 1]
    rest = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)
