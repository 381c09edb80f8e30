"""Writes the trained models as a diffusers folder in fp16: `python -m tools.tiny_base.export --out DIR --to FOLDER`."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from tools.tiny_base import models, store, tokenizer

LIMIT = 32_000_000
"""Bytes that the folder may have."""


def classic_names(path: Path) -> None:
    """Gives the text encoder's weights the names of Stable Diffusion's own files, whatever this version of transformers
    writes."""
    tensors = {
        k if k.startswith("text_model.") else f"text_model.{k}": v
        for k, v in load_file(path).items()
        if "position_ids" not in k
    }
    save_file(tensors, path, {"format": "pt"})


def export(out: Path, folder: Path) -> int:
    """Writes `folder` from the averaged weights in `out`; the judge too if it is there. Returns the bytes written.

    Raises ValueError if the folder is larger than LIMIT.
    """
    vae, unet, text = models.vae(), models.unet(), models.text_encoder()
    store.load(out / "vae.ema.safetensors", {"vae": vae})
    store.load(out / "unet.ema.safetensors", {"unet": unet, "text": text})
    vae.register_to_config(scaling_factor=json.loads((out / "unet.json").read_text())["scale"])
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    words = out / "tokenizer"
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=text.half(),
        tokenizer=tokenizer.load(words),
        unet=unet.half(),
        scheduler=scheduler,
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    shutil.rmtree(folder / "tokenizer")
    tokenizer.write(folder / "tokenizer")
    classic_names(folder / "text_encoder" / "model.safetensors")
    if (out / "judge").exists():
        shutil.copytree(out / "judge", folder / "judge", dirs_exist_ok=True)
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    if size > LIMIT:
        raise ValueError(f"{folder} has {size} bytes, at most {LIMIT} are allowed")
    return size


def unpack(folder: Path, out: Path) -> None:
    """The inverse of `export`: the weights of the base in `folder` as files in `out` that training goes on from. The
    optimizers start anew."""
    out.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    text = models.text_encoder()
    models.load_text_state(text, load_file(folder / "text_encoder" / "model.safetensors"))
    store.save(out / "vae.ema.safetensors", {"vae": vae})
    store.save(out / "unet.raw.safetensors", {"unet": unet, "text": text})
    counts = {"steps": 0, "images": 0, "seconds": 0.0}
    (out / "unet.json").write_text(json.dumps(counts | {"scale": vae.config["scaling_factor"]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    a = parser.parse_args()
    print(f"{export(a.out, a.to)} bytes in {a.to}")


if __name__ == "__main__":
    main()
