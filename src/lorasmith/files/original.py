"""A diffusers folder as one file in the original layout, which user interfaces open."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.core.package import assets
from lorasmith.core.store import write_with
from lorasmith.families.reader import Reader
from lorasmith.families.source import Folder, Source, shipped_config
from lorasmith.families.stable_diffusion import ldm_names

CONFIGS = ("unet", "te", "vae", "scheduler")
TOKENIZERS = ("clip", "tiny-sd/tokenizer")


def check(source: Source) -> None:
    """Raises LorasmithError if a base cannot be written so: SD 1.x can, whose text encoder keeps its names."""
    if source.kind != "sd1":
        raise LorasmithError(f"{source.name}: {source.kind} cannot be written as one file in the original layout yet")
    tokenizer_of(source)
    if (kind := source.config("vae").get("_class_name", "AutoencoderKL")) != "AutoencoderKL":
        raise LorasmithError(f"{source.where('vae')}: the original layout has no place for a VAE of class {kind}")


def tokenizer_of(source: Source) -> str:
    """Which of our tokenizers a base has: one file has no room for another, so LorasmithError is raised for that."""
    words = json.loads((source.tokenizer("te") / "vocab.json").read_text(encoding="utf-8"))
    for name in TOKENIZERS:
        if json.loads((assets() / name / "vocab.json").read_text(encoding="utf-8")) == words:
            return name
    raise LorasmithError(f"{source.name}: it has a tokenizer of its own, which one file cannot carry; keep the folder")


def write_original(source: Folder, target: Path) -> Path:
    """Write all of a model, names changed, dtypes as they are. A model of unusual size carries its configs along in
    the metadata, where `lorasmith` finds them."""
    check(source)
    tensors: dict[str, Tensor] = {}
    reader = Reader()
    levels = len(source.config("vae")["block_out_channels"])
    for name, ref in source.resolve("unet", ()).items():
        module, _, leaf = name.rpartition(".")
        key = f"{ldm_names.UNET}{ldm_names.unet_name(module, source.unet_config)}.{leaf}"
        tensors[key] = reader.read(ref)
    for name, ref in source.resolve("vae", ()).items():
        tensor = reader.read(ref)
        if ".attentions." in name and name.endswith("weight") and tensor.dim() == 2:
            tensor = tensor[:, :, None, None]
        tensors[ldm_names.VAE + ldm_names.vae_name(name, levels)] = tensor
    for name, ref in source.raw("te").items():
        key = name.removeprefix("text_model.")
        tensors[f"{ldm_names.TEXT['sd1', 'te']}text_model.{key}"] = reader.read(ref)
    found = {part: source.config(part) for part in CONFIGS}
    metadata = {"format": "pt"}
    if any(found[part] != shipped_config("sd1", part) for part in CONFIGS[:3]):
        metadata["lorasmith.configs"] = json.dumps({"kind": "sd1", "tokenizer": tokenizer_of(source), **found})
    owned = {key: tensor.contiguous() for key, tensor in tensors.items()}
    with torch.no_grad():
        write_with(target, lambda path: save_file(owned, path, metadata))
    return target
