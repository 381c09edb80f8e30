"""The base model with what was learned in it: the file of full fine-tuning."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from lorasmith.families.resolve import find, with_vae
from lorasmith.families.source import Folder, Source
from lorasmith.families.stable_diffusion.vae import load_vae
from lorasmith.files.lora import Use
from lorasmith.files.merge import merge
from lorasmith.files.original import check, write_original

Layout = Literal["layout", "single_file"]


def check_layout(base: str, layout: Layout, vae: str = "") -> None:
    """Raises LorasmithError if the base, with another VAE, cannot be written in a layout."""
    source = find(base)
    if layout == "single_file" and source.path.is_dir():
        check(with_vae(source, vae) if vae else source)


def keeps_vae(base: str) -> bool:
    """Whether a model that is written has the base's own VAE, whatever the run used: one file is changed in place."""
    return not find(base).path.is_dir()


def whole_model(base: str, changes: Sequence[Use], stem: Path, layout: Layout, vae: str = "") -> Path:
    """Write the base with the changes of files in it, in their order; returns the file or folder. Dtypes are the
    base's. `vae`: goes into a folder in the place of the base's own; a base of one file keeps its own."""
    source = find(base)
    if not source.path.is_dir():
        target = stem.with_name(f"{stem.name}.safetensors")
        merge(base, changes, target, overwrite=True)
        return target
    merge(base, changes, stem, overwrite=True)
    if vae:
        put_vae(with_vae(source, vae), stem / "vae")
    if layout == "layout":
        return stem
    target = write_original(Folder(base, stem, source.kind), stem.with_name(f"{stem.name}.safetensors"))
    shutil.rmtree(stem)
    return target


def put_vae(source: Source, folder: Path) -> None:
    """Write a source's VAE as a folder of diffusers, in the place of what is there, in its dtype."""
    stored = next(iter(source.raw("vae").values())).dtype
    model: Any = load_vae(source, stored, torch.device("cpu"))
    shutil.rmtree(folder)
    model.save_pretrained(folder)
