"""Trains a small SD3 on the tiny base's VAE and text encoder: `python -m tools.tiny_base.train_flow --minutes 9`.

Rectified flow with logit-normal timesteps (arXiv 2403.03206, sections 2 and 3.1), 10 % empty captions, the text encoder
frozen. Goes on from DIR/flow.raw.safetensors if it was stopped. The finished base is DIR/tiny-flow, a diffusers folder
with the averaged weights; DIR/flow.jsonl has a line for each time that the tiny base's judge looked at its pictures.
Needs no network if DIR/pictures/package is there (`tools.tiny_base.sprites.fetch`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from lorasmith.evaluation.judge import Judge
from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.imaging.grid import grid
from lorasmith.imaging.png import to_image
from lorasmith.sampling.sample import sample
from tools.tiny_base import flow_base, gates, latents, sprites, store
from tools.tiny_base.optim import Average, Pair

TINY = Path("src/lorasmith/assets/tiny-sd")
EMPTY_SHARE = 0.1
DECAY = 0.999


@dataclass(frozen=True)
class Size:
    """The transformer: width, layers, and the side of a token in latents."""

    width: int = 128
    layers: int = 6
    patch: int = 1


@dataclass(frozen=True)
class Plan:
    """How long and how fast it is trained, and how often the judge looks at `judged` pictures."""

    minutes: float = 9.0
    samples: int = 120_000
    """Composites that are encoded once, and drawn from."""
    batch: int = 512
    lr: float = 2e-3
    shift: float = 1.0
    judge_minutes: float = 2.0
    judged: int = 128
    size: Size = field(default_factory=Size)


@dataclass(frozen=True)
class Data:
    """Latents and the text states of their captions, on the device."""

    latents: latents.Latents
    context: Tensor
    """(m + 1, 77, width) in half precision; the last row is the empty caption."""
    pooled: Tensor
    """(m + 1, width)."""


def read_data(family: Family, pictures: Path, plan: Plan, seed: int) -> Data:
    """Composites as latents, and their captions as the family encodes them."""
    tokenizer = TINY / "tokenizer"
    vae = cast(Any, family).vae
    made = latents.make(pictures, vae, tokenizer, plan.samples, seed, str(family.device))
    ids = torch.cat([made.tokens, made.empty[None]])
    states: list[Tensor] = []
    pooled: list[Tensor] = []
    with torch.no_grad():
        for part in ids.split(512):
            hidden, ends = cast(Any, family).encode_clip(part[:, None], 1)
            states.append(hidden.half())
            pooled.append(ends.half())
    return Data(made, torch.cat(states), torch.cat(pooled))


class Step(nn.Module):
    """The loss of noisy latents; a module, so that it can be compiled whole."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, x0: Tensor, context: Tensor, pooled: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        share = t[:, None, None, None]
        x_t = (1 - share) * x0 + share * noise
        velocity = self.transformer(x_t, 1000 * t, context, pooled)
        return (velocity.float() - (noise - x0)).square().mean()


def draw(data: Data, batch: int, scale: float, g: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A batch: latents (n, 4, 16, 16), context, pooled text, t (n,) in 0..1 and noise."""
    made = data.latents
    rows = torch.randint(len(made.caption), (batch,), generator=g, device=g.device)
    spread = torch.randn(made.means[rows].shape, generator=g, device=g.device)
    x0 = (made.means[rows].float() + made.stds[rows].float() * spread) * scale
    is_empty = torch.rand(batch, generator=g, device=g.device) < EMPTY_SHARE
    captions = torch.where(is_empty, len(data.pooled) - 1, made.caption[rows])
    t = torch.randn(batch, generator=g, device=g.device).sigmoid()
    noise = torch.randn(x0.shape, generator=g, device=g.device)
    return x0, data.context[captions].float(), data.pooled[captions].float(), t, noise


def judged(family: Family, judge: Judge, count: int, to: Path) -> dict[str, float]:
    """The shares of pictures that show the concept and the background of the prompt; the pictures as a grid."""
    requests, concepts, places = gates.requests()
    stride = max(1, len(requests) // count)
    chosen = list(range(0, len(requests), stride))[:count]
    drawn = sample(family, [gates.flow_request(requests[i]) for i in chosen], batch_size=64)
    pixels = torch.stack([picture.pixels for picture in drawn])
    rows = [[to_image(p) for p in pixels[i : i + 16]] for i in range(0, len(pixels), 16)]
    grid(rows).save(to)
    return {
        "concept": round(judge.concept(pixels).share([concepts[i] for i in chosen]), 4),
        "background": round(judge.background(pixels).share([places[i] for i in chosen]), 4),
        "pictures": len(chosen),
    }


class Training:
    """The weights under way, their average, and the files that they are written to."""

    def __init__(self, out: Path, plan: Plan) -> None:
        self.out, self.plan = out, plan
        size = plan.size
        self.folder = flow_base.begin(TINY, out / "tiny-flow", size.width, size.layers, size.patch, plan.shift)
        self.device = store.device()
        self.family = load(self.folder, dtype=torch.float32, device=self.device)
        self.modules: dict[str, nn.Module] = {"transformer": self.family.denoiser.requires_grad_(True)}
        self.state: dict[str, Any] = {"steps": 0, "images": 0, "seconds": 0.0}
        if (out / "flow.raw.safetensors").exists():
            self.state = json.loads((out / "flow.json").read_text())
            store.load(out / "flow.raw.safetensors", self.modules)
        self.average = Average(self.modules, DECAY)
        self.judge = Judge.load(TINY / "judge").to(self.device)

    def save(self, now: Mapping[str, Any]) -> None:
        """Write the present weights, the average as a base, and how far it is."""
        store.save(self.out / "flow.raw.safetensors", self.modules)
        self.average.swap()
        flow_base.write_transformer(cast(Any, self.family.denoiser), self.folder)
        self.average.swap()
        (self.out / "flow.json").write_text(json.dumps(now))

    def look(self, now: Mapping[str, Any]) -> None:
        """Let the judge look at pictures of the averaged weights."""
        self.average.swap()
        with torch.no_grad():
            found = judged(self.family, self.judge, self.plan.judged, self.out / "flow.png")
        self.average.swap()
        line = json.dumps({**now, **found})
        print(f"flow: {line}", flush=True)
        with (self.out / "flow.jsonl").open("a") as file:
            file.write(line + "\n")

    def run(self, pictures: Path) -> None:
        """Train for the minutes of the plan."""
        plan, g = self.plan, Generator(self.device).manual_seed(self.state["steps"] + 7)
        data = read_data(self.family, pictures, plan, 1000 + self.state["steps"])
        optimizer, loss_of = Pair(self.modules), cast(nn.Module, Step(self.family.denoiser))
        if self.device == "cuda":
            loss_of = cast(nn.Module, torch.compile(loss_of))
        clock, looked, step, total = store.Clock(plan.minutes), 0.0, 0, torch.zeros((), device=self.device)
        since = 0
        while not clock.over:
            batch = draw(data, plan.batch, self.family.latent_scale, g)
            with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
                loss = loss_of(*batch)
            loss.backward()
            nn.utils.clip_grad_norm_(self.average.live, 1.0)
            optimizer.set_rate(plan.lr * clock.factor(step))
            optimizer.step()
            self.average.update()
            step, since, total = step + 1, since + 1, total + loss.detach()
            if step in (3, 20) or step % 100 == 0:
                print(f"flow: step {step} {clock.elapsed:.1f} s loss {total.item() / since:.4f}", flush=True)
                since, total = 0, torch.zeros_like(total)
            if clock.due():
                self.save(self.now(step, clock))
            if clock.elapsed - looked > plan.judge_minutes * 60:
                self.look(self.now(step, clock))
                looked = clock.elapsed
        self.save(self.now(step, clock))
        self.look(self.now(step, clock))
        print(
            f"flow: {flow_base.size(self.folder)} bytes in {self.folder}, at most {flow_base.LIMIT} wanted", flush=True
        )

    def now(self, step: int, clock: store.Clock) -> dict[str, Any]:
        """How far it is, over all calls."""
        return {
            **self.state,
            "steps": self.state["steps"] + step,
            "images": self.state["images"] + step * self.plan.batch,
            "seconds": round(self.state["seconds"] + clock.elapsed, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(".work/tiny-flow"))
    parser.add_argument("--pictures", type=Path, help="folder of the pictures; fetched into DIR/pictures if left out")
    for name in ("minutes", "samples", "batch", "lr", "shift", "judge_minutes", "judged"):
        default = getattr(Plan(), name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    for name in ("width", "layers", "patch"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Size(), name))
    options = vars(parser.parse_args())
    out, pictures = options.pop("out"), options.pop("pictures")
    size = Size(**{name: options.pop(name) for name in ("width", "layers", "patch")})
    out.mkdir(parents=True, exist_ok=True)
    Training(out, Plan(**options, size=size)).run(pictures or sprites.fetch(out / "pictures"))


if __name__ == "__main__":
    main()
