"""Trains the judge: `python -m tools.tiny_base.train_judge --out DIR --minutes 1.5`. Needs DIR/vae.ema.safetensors;
writes DIR/judge/.

It sees composites as drawn, after the VAE's round trip, blurred, noisy, and with noise in the latents, because sampled
pictures are like that.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from lorasmith.evaluation.judge import JudgeNet
from tools.tiny_base import backgrounds, models, render, sprites, store
from tools.tiny_base.concepts import GARP, HELD_OUT
from tools.tiny_base.sprites import Bank


def names() -> list[str]:
    """Concepts, then garp, then `other` for whatever else was held out."""
    return [*(c.name for c in sprites.CONCEPTS), "garp", "other"]


def bank(pictures: Path, device: str) -> Bank:
    """All sprites, the held-out ones too, with the judge's classes."""
    known, held = sprites.training_bank(pictures, device), sprites.held_out_bank(pictures, device)
    n = len(known.names)
    classes = torch.tensor([n if file == GARP else n + 1 for file in HELD_OUT])
    order = classes.argsort()
    return Bank(
        torch.cat([known.pixels, held.pixels[order.to(device)]]),
        torch.cat([known.concept, classes[order]]),
        (*known.words, *held.words),
        (*known.turned, *held.turned),
        tuple(names()),
    )


def worn(x: Tensor, vae: nn.Module, g: Generator) -> Tensor:
    """`x` (n, 3, h, w) as a sampler might have made it: a third untouched, the others through the VAE with noise in the
    latents, then blur and noise."""
    n = len(x)
    z = vae.encode(x).latent_dist.mode()  # type: ignore[operator]
    noise = torch.randn(z.shape, generator=g, device=x.device) * z.std()
    z = z + noise * torch.rand(n, 1, 1, 1, generator=g, device=x.device) * 0.25
    tripped = vae.decode(z).sample.float()  # type: ignore[operator]
    pick = torch.rand(n, 1, 1, 1, generator=g, device=x.device)
    x = torch.where(pick < 0.33, x, tripped)
    x = torch.where(pick > 0.8, F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1), x)
    amount = torch.rand(n, 1, 1, 1, generator=g, device=x.device) ** 2 * 0.2
    return (x + torch.randn(x.shape, generator=g, device=x.device) * amount).clamp(-1, 1)


def accuracy(net: JudgeNet, drawn: Bank, g: Generator, count: int = 2048) -> tuple[float, float]:
    """Shares right of concepts and of backgrounds on fresh composites."""
    net.eval()
    right = torch.zeros(2)
    with torch.no_grad():
        for _ in range(0, count, 128):
            batch = render.render(drawn, render.choose(drawn, 128, g), g)
            concept, background = net(batch.images)
            right[0] += (concept.argmax(1).cpu() == drawn.concept[batch.sprites.cpu()]).sum()
            right[1] += (background.argmax(1) == batch.background).sum().cpu()
    net.train()
    return right[0].item() / count, right[1].item() / count


def train(pictures: Path, out: Path, minutes: float, batch: int = 256, lr: float = 2e-3) -> None:
    """Trains and writes DIR/judge/judge.safetensors (fp16) and judge.json."""
    device = store.device()
    torch.manual_seed(0)
    vae = models.vae()
    store.load(out / "vae.ema.safetensors", {"vae": vae})
    vae.to(device).requires_grad_(False)
    drawn, g = bank(pictures, device), Generator(device).manual_seed(5)
    classes = drawn.concept.to(device)
    net = JudgeNet(len(drawn.names), len(backgrounds.NAMES)).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.05)
    clock, step = store.Clock(minutes, fall=0.6), 0
    while not clock.over:
        b = render.render(drawn, render.choose(drawn, batch, g), g)
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            x = worn(b.images, vae, g)
        concept, background = net(x)
        loss = F.cross_entropy(concept, classes[b.sprites], label_smoothing=0.05) + F.cross_entropy(
            background, b.background, label_smoothing=0.05
        )
        for group in optimizer.param_groups:
            group["lr"] = lr * clock.factor(step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 200 == 0 or step == 5:
            print(f"judge: step {step} {clock.elapsed:.0f} s loss {loss.item():.3f}", flush=True)
    score = accuracy(net, drawn, Generator(device).manual_seed(77_777))
    print(f"judge: {step} steps, fresh composites: concept {score[0]:.4f} background {score[1]:.4f}", flush=True)
    folder = out / "judge"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.half().cpu() if v.is_floating_point() else v.cpu() for k, v in net.state_dict().items()},
        folder / "judge.safetensors",
    )
    (folder / "judge.json").write_text(
        json.dumps({"concepts": list(drawn.names), "backgrounds": list(backgrounds.NAMES)}, indent=1) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--batch", type=int, default=256)
    a = parser.parse_args()
    train(a.pictures or sprites.fetch(a.out / "pictures"), a.out, a.minutes, a.batch)


if __name__ == "__main__":
    main()
