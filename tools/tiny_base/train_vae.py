"""Trains the VAE on fresh composites: `python -m tools.tiny_base.train_vae --out DIR --minutes 4`. Resumes from
DIR/vae.raw.safetensors.

With `--start FOLDER --decoder-only` the decoder of a finished VAE is trained on: its latents stay as they are, so the
UNet trained on them does too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Generator, Tensor, nn

from tools.tiny_base import models, render, sprites, store
from tools.tiny_base.optim import Average, Pair


class Step(nn.Module):
    """Loss of a batch (n, 3, h, w): L1 + 2 MSE + 1e-6 KL; or the mean logarithm of an image's MSE, which is what PSNR
    counts. A module, so that it can be compiled whole."""

    def __init__(self, vae: nn.Module, logarithmic: bool) -> None:
        super().__init__()
        self.vae, self.logarithmic = vae, logarithmic

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        moments = self.vae.quant_conv(self.vae.encoder(x))
        mean, logvar = moments.float().chunk(2, dim=1)
        logvar = logvar.clamp(-30, 20)
        z = mean + (0.5 * logvar).exp() * noise
        error = self.vae.decoder(self.vae.post_quant_conv(z)).float() - x
        if self.logarithmic:
            return error.square().mean(dim=(1, 2, 3)).log().mean()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
        return error.abs().mean() + 2 * error.square().mean() + 1e-6 * kl


def psnr(vae: nn.Module, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image (n, 3, h, w) in -1..1 after a round trip through the latents'
    means."""
    with torch.no_grad():
        out = vae.decode(vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)  # type: ignore[operator]
    return 10 * torch.log10(4 / (out - images).square().mean(dim=(1, 2, 3)))


def validation(pictures: Path, device: str, each: int = 4) -> Tensor:
    """Composites of pictures that no training sees, in a fixed order."""
    bank = sprites.held_out_bank(pictures, device)
    g = Generator(device).manual_seed(20_000)
    return render.render(bank, torch.arange(len(bank.names), device=device).repeat(each), g).images


def begin(out: Path, start: Path | None = None, decoder_only: bool = False) -> nn.Module:
    """The VAE to train: a new one, that of the diffusers folder `start`, or what an earlier run left in `out`."""
    vae = models.vae() if start is None else AutoencoderKL.from_pretrained(start)
    vae = vae.float().to(store.device())
    if (out / "vae.raw.safetensors").exists():
        store.load(out / "vae.raw.safetensors", {"vae": vae})
    for part in (vae.encoder, vae.quant_conv) if decoder_only else ():
        part.requires_grad_(False)
    return vae


def train(vae: nn.Module, pictures: Path, out: Path, minutes: float, batch: int = 64, lr: float = 2e-3) -> nn.Module:
    """Trains and returns the averaged VAE; DIR/vae.raw and DIR/vae.ema are written each minute and at the end."""
    device = store.device()
    torch.manual_seed(0)
    modules: dict[str, nn.Module] = {"vae": vae}
    bank, held = sprites.training_bank(pictures, device), validation(pictures, device)
    print(f"vae: before {psnr(vae, held).mean():.2f} dB", flush=True)
    vae.to(memory_format=torch.channels_last)
    optimizer, average = Pair(modules, weight_decay=0.0), Average(modules, 0.998)
    loss_of: nn.Module = Step(vae, logarithmic=not next(vae.encoder.parameters()).requires_grad)
    if device == "cuda":
        loss_of = torch.compile(loss_of)  # type: ignore[assignment]
    g = Generator(device).manual_seed(torch.seed() % 2**31)
    clock, step, pool = store.Clock(minutes), 0, torch.empty(0)
    size = 128 if device == "cuda" else 64
    while not clock.over:
        if step % 16 == 0:
            pool = render.render(bank, render.choose(bank, 16 * batch, g), g).images
        x = pool[(step % 16) * batch :][:batch]
        if size < 128:
            at = torch.randint(0, 128 - size, (2,)).tolist()
            x = x[:, :, at[0] : at[0] + size, at[1] : at[1] + size]
        x = x.contiguous(memory_format=torch.channels_last)
        noise = torch.randn(len(x), 4, size // 8, size // 8, device=device)
        with torch.autocast(device, torch.bfloat16):
            loss = loss_of(x, noise)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.set_rate(lr * clock.factor(step))
        optimizer.step()
        average.update()
        step += 1
        if step % 500 == 0 or step in (5, 50):
            print(f"vae: step {step} {clock.elapsed:.0f} s loss {loss.item():.4f}", flush=True)
        if clock.due():
            store.save(out / "vae.raw.safetensors", modules)
            average.swap()
            print(f"vae: step {step} {clock.elapsed:.0f} s averaged {psnr(vae, held).mean():.2f} dB", flush=True)
            average.swap()
    store.save(out / "vae.raw.safetensors", modules)
    average.swap()
    store.save(out / "vae.ema.safetensors", modules)
    print(f"vae: {step} steps, {clock.elapsed:.0f} s, held-out {psnr(vae, held).mean():.2f} dB", flush=True)
    return vae


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--start", type=Path, help="diffusers folder of the VAE to go on from")
    parser.add_argument("--decoder-only", action="store_true")
    a = parser.parse_args()
    pictures = a.pictures or sprites.fetch(a.out / "pictures")
    train(begin(a.out, a.start, a.decoder_only), pictures, a.out, a.minutes, a.batch, a.lr)


if __name__ == "__main__":
    main()
