"""A base model whose VAE is replaced: by that of a diffusers folder, or of one file in the original layout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError
from lorasmith.core.text_files import read_json_table
from lorasmith.families.reader import TensorRef, read_header
from lorasmith.families.stable_diffusion import ldm_names
from lorasmith.families.stable_diffusion.source import StableDiffusionSource, configs_in, shipped_config
from lorasmith.families.stable_diffusion.stored_names import current_vae_names, original_vae
from lorasmith.families.weight_files import weight_files

CHANNELS, LEVELS = 4, 4
"""The latents of all Stable Diffusion models: 4 channels, an eighth of the image's sides."""


@dataclass(frozen=True)
class _Vae:
    config: dict[str, Any]
    refs: dict[str, TensorRef]
    original_names: bool


class OtherVae(StableDiffusionSource):
    """A base whose VAE is stored elsewhere; everything else is the base's.

    If the VAE's config has no scaling factor, the base's is used, because the UNet was trained on latents of that
    scale.
    """

    def __init__(self, base: StableDiffusionSource, path: Path) -> None:
        """`path`: a folder with the VAE or with a `vae` folder, or a `.safetensors`. Raises LorasmithError if there is
        no VAE in it, or one whose latents are not Stable Diffusion's."""
        self.base, self.vae_path = base, path
        self.layout, self.name, self.path, self.kind = base.layout, base.name, base.path, base.kind
        self._vae = _from_folder(path) if path.is_dir() else _from_file(path, base)
        self._config = {"scaling_factor": base.config("vae").get("scaling_factor", 0.18215), **self._vae.config}
        self._check()

    def _check(self) -> None:
        channels = self._config.get("latent_channels", CHANNELS)
        levels = len(self._config.get("block_out_channels") or [0] * LEVELS)
        if (channels, levels) != (CHANNELS, LEVELS):
            raise LorasmithError(
                f"{self.vae_path}: a VAE with latents of {channels} channels at 1/{2 ** (levels - 1)} of the image's "
                f"sides; {self.kind} needs {CHANNELS} channels at 1/{2 ** (LEVELS - 1)}"
            )

    @property
    def states_prediction(self) -> bool:
        return self.base.states_prediction

    @property
    def native_size(self) -> int:
        return self.base.native_size

    def where(self, part: str) -> str:
        return str(self.vae_path) if part == "vae" else self.base.where(part)

    def config(self, part: str) -> dict[str, Any]:
        return dict(self._config) if part == "vae" else self.base.config(part)

    def raw(self, part: str) -> dict[str, TensorRef]:
        return dict(self._vae.refs) if part == "vae" else self.base.raw(part)

    def resolve(self, part: str, names: Iterable[str]) -> dict[str, TensorRef]:
        if part != "vae":
            return self.base.resolve(part, names)
        if self._vae.original_names:
            return original_vae(self._vae.refs, names, LEVELS)
        return current_vae_names(self._vae.refs)

    def tokenizer(self, part: str) -> Path:
        return self.base.tokenizer(part)

    def pad(self, part: str) -> int | None:
        return self.base.pad(part)


def _from_folder(path: Path) -> _Vae:
    """The VAE of a diffusers folder: the folder itself, or its folder `vae`."""
    folder = path / "vae" if (path / "vae" / "config.json").is_file() else path
    config_file = folder / "config.json"
    config = read_json_table(config_file) if config_file.is_file() else {}
    if not str(config.get("_class_name", "")).startswith("Autoencoder"):
        raise LorasmithError(f"{path}: not a diffusers VAE, nor a folder with one in `vae`")
    refs: dict[str, TensorRef] = {}
    for file in weight_files(folder, "VAE"):
        refs.update(read_header(file)[0])
    return _Vae(config, refs, original_names=False)


def _from_file(path: Path, base: StableDiffusionSource) -> _Vae:
    """The VAE of a `.safetensors`: a checkpoint, or a VAE alone with or without a checkpoint's prefix."""
    tensors, metadata = read_header(path)
    prefix = ldm_names.VAE
    refs = {name.removeprefix(prefix): ref for name, ref in tensors.items() if name.startswith(prefix)}
    refs = refs or tensors
    if not any(name.startswith("decoder.") for name in refs):
        raise LorasmithError(f"{path}: there is no VAE in it (no {prefix}decoder.* and no decoder.*)")

    # The file's config if it has one; else the base's, unless the base has a VAE of another class.
    config = configs_in(metadata, path).get("vae")
    if not config:
        config = base.config("vae")
        if config.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
            config = shipped_config(base.kind, "vae")
    return _Vae(config, refs, original_names=not any(".resnets." in name for name in refs))
