"""Trains UNet and text encoder together: `python -m tools.tiny_base.train_unet --out DIR --minutes 8`. Needs
DIR/vae.ema.safetensors. `--start FOLDER`: trains the base in that folder further.

Resumes from DIR/unet.raw.safetensors. Min-SNR 5 (arXiv 2303.09556), epsilon prediction, SD's noise schedule, 10 % empty
captions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from tools.tiny_base import export, latents, models, sprites, store
from tools.tiny_base.captured import Captured
from tools.tiny_base.optim import Average, Pair


def alphas(device: str) -> Tensor:
    """(1000,) cumulative products of SD's scaled-linear schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float().to(device)


class Step(nn.Module):
    """Weighted loss of noisy latents; a module, so that it can be compiled whole."""

    def __init__(self, unet: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.unet, self.text = unet, text

    def forward(self, z: Tensor, ids: Tensor, t: Tensor, noise: Tensor, a: Tensor) -> Tensor:
        a4 = a[:, None, None, None]
        context = self.text(input_ids=ids).last_hidden_state
        out = self.unet(a4.sqrt() * z + (1 - a4).sqrt() * noise, t, context).sample
        weight = (5 * (1 - a) / a).clamp(max=1.0)
        return (weight * (out.float() - noise).square().mean(dim=(1, 2, 3))).mean()


def draw(data: latents.Latents, batch: int, scale: float, g: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch: latents (n, 4, 16, 16), token ids (n, 77) with a tenth of them empty, timesteps (n,) and noise."""
    i = torch.randint(len(data.caption), (batch,), generator=g, device=g.device)
    spread = torch.randn(data.means[i].shape, generator=g, device=g.device)
    z = (data.means[i].float() + data.stds[i].float() * spread) * scale
    ids = data.tokens[data.caption[i]]
    ids = torch.where(torch.rand(batch, 1, generator=g, device=g.device) < 0.1, data.empty, ids)
    t = torch.randint(1000, (batch,), generator=g, device=g.device)
    return z, ids, t, torch.randn(z.shape, generator=g, device=g.device)


def train(pictures: Path, out: Path, minutes: float, samples: int, batch: int, lr: float) -> None:
    """Trains for `minutes`; writes DIR/unet.raw and DIR/unet.ema each minute and at the end."""
    device = store.device()
    torch.manual_seed(0)
    vae = models.vae()
    store.load(out / "vae.ema.safetensors", {"vae": vae})
    modules: dict[str, nn.Module] = {"unet": models.unet().to(device), "text": models.text_encoder().to(device)}
    state = out / "unet.json"
    done = json.loads(state.read_text()) if state.exists() else {"steps": 0, "images": 0, "seconds": 0.0}
    if (out / "unet.raw.safetensors").exists():
        store.load(out / "unet.raw.safetensors", modules)
    data = latents.make(pictures, vae.to(device), out / "tokenizer", samples, 1000 + done["steps"], device)
    scale = done.setdefault("scale", data.scale)
    del vae
    modules["unet"].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer, average = Pair(modules), Average(modules, 0.999)
    loss_of = Step(modules["unet"], modules["text"])
    parameters = [p for m in modules.values() for p in m.parameters()]
    table, g = alphas(device), Generator(device).manual_seed(done["steps"] + 7)

    def advance(*inputs: Tensor) -> Tensor:
        # Without autocast's cache of weights: a CUDA graph must not use what was made outside of it.
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda", cache_enabled=False):
            loss = loss_of(*inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss.detach()

    step_of: Callable[..., Tensor] = advance
    if device == "cuda":
        z, ids, t, noise = draw(data, batch, scale, g)
        step_of = Captured(advance, (z, ids, t, noise, table[t]))
    clock, step, total = store.Clock(minutes, fall=0.6), 0, torch.zeros((), device=device)

    def finish(last: bool) -> None:
        store.save(out / "unet.raw.safetensors", modules)
        average.swap()
        store.save(out / "unet.ema.safetensors", modules)
        if not last:
            average.swap()
        now = {
            k: done[k] + v for k, v in (("steps", step), ("images", step * batch), ("seconds", round(clock.elapsed, 1)))
        }
        state.write_text(json.dumps({**now, "scale": scale}))

    while not clock.over:
        z, ids, t, noise = draw(data, batch, scale, g)
        optimizer.set_rate(lr * clock.factor(step))
        total += step_of(z, ids, t, noise, table[t])
        average.update()
        step += 1
        if step % 200 == 0 or step in (3, 20):
            count = {3: 3, 20: 17, 200: 180}.get(step, 200)
            print(f"unet: step {step} {clock.elapsed:.1f} s loss {total.item() / count:.4f}", flush=True)
            total.zero_()
        if clock.due():
            finish(False)
    finish(True)
    print(f"unet: {step} steps of {batch}, {clock.elapsed:.0f} s, {state.read_text()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--samples", type=int, default=120_000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--start", type=Path, help="a finished base to train further, if DIR has no weights yet")
    a = parser.parse_args()
    if a.start and not (a.out / "unet.raw.safetensors").exists():
        export.unpack(a.start, a.out)
    train(a.pictures or sprites.fetch(a.out / "pictures"), a.out, a.minutes, a.samples, a.batch, a.lr)


if __name__ == "__main__":
    main()
