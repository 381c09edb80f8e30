"""Write the base model with the trained change merged into it, as full fine-tuning would give it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from lorasmith.families.resolve import find, with_vae
from lorasmith.families.source import Source
from lorasmith.families.stable_diffusion.source import Folder
from lorasmith.families.stable_diffusion.vae import load_vae
from lorasmith.files.lora import LoraInput
from lorasmith.files.merge import merge
from lorasmith.files.original import check, write_original

Layout = Literal["layout", "single_file"]


def check_layout(base: str, layout: Layout, vae: str = "") -> None:
    """Raises LorasmithError if the base model, with its VAE replaced by `vae`, cannot be written in a layout."""
    source = find(base)
    if layout == "single_file" and source.path.is_dir():
        check(with_vae(source, vae) if vae else source)


def keeps_vae(base: str) -> bool:
    """Whether the written model has the VAE of the base model even if the run used another one. This is so if the base
    is a single file, since the changes are merged into a copy of that file."""
    return not find(base).path.is_dir()


def write_full_model(base: str, changes: Sequence[LoraInput], stem: Path, layout: Layout, vae: str = "") -> Path:
    """Write the base model with the changes of LoRA files merged in, in their order; returns the file or folder.

    The dtypes are those of the base model. `stem`: path without suffix. `vae`: replaces the VAE of a base model that is
    a folder; a base model that is a single file keeps its own.
    """
    source = find(base)
    single_file = stem.with_name(f"{stem.name}.safetensors")
    # a single file is changed as it is, in whatever layout it has
    if not source.path.is_dir():
        merge(base, changes, single_file, overwrite=True)
        return single_file

    merge(base, changes, stem, overwrite=True)
    if vae:
        replace_vae(stem / "vae", with_vae(source, vae))
    if layout == "layout":
        return stem

    # the folder is only a step on the way to the single file
    write_original(Folder(base, stem, source.kind), single_file)
    shutil.rmtree(stem)
    return single_file


def replace_vae(folder: Path, source: Source) -> None:
    """Replace a VAE folder by the VAE of a source, in the layout of diffusers and the dtype of the source."""
    dtype = next(iter(source.raw("vae").values())).dtype
    model: Any = load_vae(source, dtype, torch.device("cpu"))
    shutil.rmtree(folder)
    model.save_pretrained(folder)
