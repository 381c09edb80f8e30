"""Another VAE in the place of a base's own: of a diffusers folder, or of one file in the original layout."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError
from lorasmith.families.reader import TensorRef, read_header
from lorasmith.families.source import Source, modern_vae, shipped_config, vae_refs, weight_files
from lorasmith.families.stable_diffusion import ldm_names

CHANNELS, LEVELS = 4, 4
"""Of the latents of all Stable Diffusions: 4 channels, an eighth of the image's sides."""


class OtherVae(Source):
    """A base whose VAE lies elsewhere; everything else is the base's own.

    A scaling factor that the VAE does not name is the base's: the UNet knows latents of that size.
    """

    def __init__(self, base: Source, path: Path) -> None:
        """`path`: a folder with the VAE or with a `vae` folder, or a `.safetensors`. Raises LorasmithError if there is
        no VAE in it, or one whose latents are not Stable Diffusion's."""
        self.base, self.vae_path = base, path
        self.layout, self.name, self.path, self.kind = base.layout, base.name, base.path, base.kind
        self._config, self._refs, self._original = _opened(path, base)
        self._config = {"scaling_factor": base.config("vae").get("scaling_factor", 0.18215), **self._config}
        self._check()

    def _check(self) -> None:
        channels = self._config.get("latent_channels", CHANNELS)
        levels = len(self._config.get("block_out_channels") or [0] * LEVELS)
        if (channels, levels) != (CHANNELS, LEVELS):
            raise LorasmithError(
                f"{self.vae_path}: a VAE with latents of {channels} channels at 1/{2 ** (levels - 1)} of the image's "
                f"sides; {self.kind} needs {CHANNELS} channels at 1/{2 ** (LEVELS - 1)}"
            )

    def where(self, part: str) -> str:
        return str(self.vae_path) if part == "vae" else self.base.where(part)

    def config(self, part: str) -> dict[str, Any]:
        return dict(self._config) if part == "vae" else self.base.config(part)

    def raw(self, part: str) -> dict[str, TensorRef]:
        return dict(self._refs) if part == "vae" else self.base.raw(part)

    def resolve(self, part: str, names: Iterable[str]) -> dict[str, TensorRef]:
        if part != "vae":
            return self.base.resolve(part, names)
        return vae_refs(self._refs, names, LEVELS) if self._original else modern_vae(self._refs)

    def tokenizer(self, part: str) -> Path:
        return self.base.tokenizer(part)

    def pad(self, part: str) -> int | None:
        return self.base.pad(part)


def _opened(path: Path, base: Source) -> tuple[dict[str, Any], dict[str, TensorRef], bool]:
    """Config, tensors, and whether these have the original layout's names."""
    if path.is_dir():
        folder = path / "vae" if (path / "vae" / "config.json").is_file() else path
        file = folder / "config.json"
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if not str(config.get("_class_name", "")).startswith("Autoencoder"):
            raise LorasmithError(f"{path}: not a VAE of diffusers, nor a folder with one in `vae`")
        refs: dict[str, TensorRef] = {}
        for weights in weight_files(folder, "VAE"):
            refs.update(read_header(weights)[0])
        return config, refs, False
    tensors, metadata = read_header(path)
    inside = {n.removeprefix(ldm_names.VAE): ref for n, ref in tensors.items() if n.startswith(ldm_names.VAE)}
    refs = inside or tensors
    if not any(name.startswith("decoder.") for name in refs):
        raise LorasmithError(f"{path}: there is no VAE in it (no {ldm_names.VAE}decoder.* and no decoder.*)")
    own = json.loads(metadata.get("lorasmith.configs", "{}")).get("vae")
    known = base.config("vae")
    usual = known if known.get("_class_name", "AutoencoderKL") == "AutoencoderKL" else shipped_config(base.kind, "vae")
    return own or usual, refs, not any(".resnets." in name for name in refs)
