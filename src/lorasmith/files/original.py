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
from lorasmith.families.source import Source
from lorasmith.families.stable_diffusion import ldm_names
from lorasmith.families.stable_diffusion.source import TOKENIZERS, Folder, shipped_config

CONFIGS = ("unet", "te", "vae", "scheduler")
MODEL_CONFIGS = ("unet", "te", "vae")


def check(source: Source) -> None:
    """Raise LorasmithError if a base cannot be written in the original layout. SD 1.x can, whose text encoder keeps its
    names."""
    if source.kind != "sd1":
        raise LorasmithError(f"{source.name}: {source.kind} cannot be written as one file in the original layout yet")
    tokenizer_of(source)
    vae_class = source.config("vae").get("_class_name", "AutoencoderKL")
    if vae_class != "AutoencoderKL":
        raise LorasmithError(f"{source.where('vae')}: the original layout cannot hold a VAE of class {vae_class}")


def tokenizer_of(source: Source) -> str:
    """Which of Lorasmith's tokenizers a base has. Raises LorasmithError for any other, which one file cannot hold."""
    vocabulary = json.loads((source.tokenizer("te") / "vocab.json").read_text(encoding="utf-8"))
    for name in TOKENIZERS:
        if json.loads((assets() / name / "vocab.json").read_text(encoding="utf-8")) == vocabulary:
            return name
    raise LorasmithError(
        f"{source.name}: it has a tokenizer of its own, which one file cannot hold; use the folder instead"
    )


def write_original(source: Folder, target: Path) -> Path:
    """Write a whole model under the original names, dtypes unchanged. The metadata of a model of unusual size contain
    its configs, where Lorasmith finds them."""
    check(source)
    tensors = {key: tensor.contiguous() for key, tensor in _original_tensors(source).items()}
    metadata = {"format": "pt"}
    configs = {component: source.config(component) for component in CONFIGS}
    if any(configs[component] != shipped_config("sd1", component) for component in MODEL_CONFIGS):
        metadata["lorasmith.configs"] = json.dumps({"kind": "sd1", "tokenizer": tokenizer_of(source), **configs})
    with torch.no_grad():
        write_with(target, lambda path: save_file(tensors, path, metadata))
    return target


def _original_tensors(source: Folder) -> dict[str, Tensor]:
    """All tensors of a model, by their names in the original layout."""
    reader = Reader()
    tensors: dict[str, Tensor] = {}
    for name, ref in source.resolve("unet", ()).items():
        module, _, parameter = name.rpartition(".")
        original_module = ldm_names.unet_name(module, source.unet_config)
        tensors[f"{ldm_names.UNET}{original_module}.{parameter}"] = reader.read(ref)
    levels = len(source.config("vae")["block_out_channels"])
    for name, ref in source.resolve("vae", ()).items():
        tensor = reader.read(ref)
        # the original VAE has 1x1 convolutions where diffusers has linears
        if ".attentions." in name and name.endswith("weight") and tensor.dim() == 2:
            tensor = tensor[:, :, None, None]
        tensors[ldm_names.VAE + ldm_names.vae_name(name, levels)] = tensor
    for name, ref in source.raw("te").items():
        path = name.removeprefix("text_model.")
        tensors[f"{ldm_names.TEXT['sd1', 'te']}text_model.{path}"] = reader.read(ref)
    return tensors
