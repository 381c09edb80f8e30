"""Which parts of a model files and folders have, by the names of their tensors. Only headers are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError
from lorasmith.families.folder_parts import read_part_config, read_part_headers
from lorasmith.families.reader import TensorRef, read_header
from lorasmith.families.stable_diffusion.source import part_title
from lorasmith.families.transformer_models.inferred_configs import TOKEN_TABLE
from lorasmith.families.transformer_models.scaled_weights import with_scales

CLIP = "clip"
"""A CLIP text encoder in a file of its own; which one it is, its width tells."""
_PREFIXES = {
    "te1": ("text_encoders.clip_l.transformer.", "text_encoders.clip_l."),
    "te2": ("text_encoders.clip_g.transformer.", "text_encoders.clip_g."),
    "t5": ("text_encoders.t5xxl.transformer.", "text_encoders.t5xxl."),
    "vae": ("first_stage_model.", "vae."),
}
"""What the names of a part's tensors begin with in a checkpoint, as ComfyUI and Stability AI write it."""
_DENOISER_PREFIXES = ("model.diffusion_model.", "diffusion_model.")
_BARE = {
    CLIP: (TOKEN_TABLE, f"text_model.{TOKEN_TABLE}"),
    "t5": ("encoder.block.0.layer.0.SelfAttention.q.weight",),
    "vae": ("decoder.conv_in.weight",),
}
"""A tensor that shows what a file of one part is."""


@dataclass(frozen=True)
class StoredPart:
    """One part of a model on disk."""

    refs: Mapping[str, TensorRef]
    """The tensors by their names in the file, without a prefix."""
    path: Path
    """The file, or the folder of the diffusers layout."""
    config: Mapping[str, Any] | None = None
    """The config, if it lies in a folder with one."""


def denoiser_in(tensors: Mapping[str, TensorRef], path: Path) -> StoredPart:
    """The tensors that may be a transformer: those under a checkpoint's prefix, else all."""
    for prefix in _DENOISER_PREFIXES:
        refs = _under(tensors, prefix)
        if refs:
            return StoredPart(with_scales(refs, path), path)
    return StoredPart(with_scales(tensors, path), path)


def has_denoiser(tensors: Iterable[str]) -> bool:
    """Whether a file has a denoiser of any model, so that it is not a file of parts."""
    return any(name.startswith((*_DENOISER_PREFIXES, "double_blocks.", "joint_blocks.")) for name in tensors)


def parts_of_file(path: Path) -> dict[str, StoredPart]:
    """The parts of a `.safetensors` other than a denoiser: those of a checkpoint, or the one part that it is. Empty if
    it has none."""
    tensors, _ = read_header(path)
    return parts_in(tensors, path)


def parts_in(tensors: Mapping[str, TensorRef], path: Path) -> dict[str, StoredPart]:
    """`parts_of_file` for a header that is read already."""
    found: dict[str, StoredPart] = {}
    for part, prefixes in _PREFIXES.items():
        for prefix in prefixes:
            refs = _under(tensors, prefix)
            if refs and part not in found:
                found[part] = StoredPart(with_scales(refs, path), path)
    if found or has_denoiser(tensors):
        return found
    for part, signs in _BARE.items():
        if any(sign in tensors for sign in signs):
            return {part: StoredPart(with_scales(tensors, path), path)}
    return {}


def _under(tensors: Mapping[str, TensorRef], prefix: str) -> dict[str, TensorRef]:
    return {name.removeprefix(prefix): ref for name, ref in tensors.items() if name.startswith(prefix)}


def parts_of_folder(path: Path, folders: Mapping[str, tuple[str, str]]) -> dict[str, list[StoredPart]]:
    """The parts of a folder: a diffusers model, the folder of one part of such, or `.safetensors` files.

    `folders`: as `TransformerSource.folders`. A part that several files have is listed several times.
    """
    found: dict[str, list[StoredPart]] = {}
    for part, (folder, _) in {**folders, "vae": ("vae", "")}.items():
        if (path / folder / "config.json").is_file():
            found[part] = [_of_diffusers(path / folder, part)]
    if found:
        return found
    if (path / "config.json").is_file():
        refs = read_part_headers(path, "part")
        part = next((part for part, signs in _BARE.items() if any(sign in refs for sign in signs)), None)
        return {} if part is None else {part: [StoredPart(refs, path, read_part_config(path, "part"))]}
    for file in sorted(path.glob("*.safetensors")):
        add(found, {part: [stored] for part, stored in _parts_alone(file).items()})
    return found


def _parts_alone(file: Path) -> dict[str, StoredPart]:
    """The parts of a file without a denoiser; empty for any other file."""
    try:
        tensors, _ = read_header(file)
        return {} if has_denoiser(tensors) else parts_in(tensors, file)
    except LorasmithError:  # another model's file, which is not needed
        return {}


def add(found: dict[str, list[StoredPart]], more: Mapping[str, list[StoredPart]]) -> None:
    """Add the parts of another place to those that are found."""
    for part, candidates in more.items():
        found.setdefault(part, []).extend(candidates)


def clip_width(stored: StoredPart) -> int:
    """The width of a CLIP text encoder's states; 0 if the file has no table of tokens."""
    refs = stored.refs
    table = refs.get(TOKEN_TABLE) or refs.get(f"text_model.{TOKEN_TABLE}")
    return 0 if table is None else table.shape[-1]


def t5_width(stored: StoredPart) -> int:
    """The width of T5's states; 0 for UMT5, which has a table of positions in each block."""
    refs = stored.refs
    query = refs.get("encoder.block.0.layer.0.SelfAttention.q.weight")
    if query is None or "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight" in refs:
        return 0
    return query.shape[-1]


def latent_channels(stored: StoredPart) -> int:
    """The channels of a VAE's latents; 0 for a VAE of videos, whose convolutions have a dimension more."""
    first = stored.refs.get("decoder.conv_in.weight")
    return first.shape[1] if first is not None and len(first.shape) == 4 else 0


def _of_diffusers(folder: Path, part: str) -> StoredPart:
    title = part_title(part)
    return StoredPart(read_part_headers(folder, title), folder, read_part_config(folder, title))
