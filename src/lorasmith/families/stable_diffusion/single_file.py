"""A Stable Diffusion model in one `.safetensors` file with the original (CompVis, Stability) names."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from lorasmith.core.errors import LorasmithError
from lorasmith.core.file_contents import SUPPORTED, not_a_base
from lorasmith.core.package import assets
from lorasmith.families.reader import TensorRef, read_header
from lorasmith.families.registry import NotRecognisedError
from lorasmith.families.stable_diffusion import ldm_names
from lorasmith.families.stable_diffusion.source import StableDiffusionSource, configs_in, part_title, shipped_config
from lorasmith.families.stable_diffusion.stored_names import (
    from_openclip,
    original_vae,
    renamed,
    text_encoder_names,
)

CONTEXT_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""The width of the text states of the published models."""
_REFINER_WIDTH = 1280
SD2_EPSILON_SIZE = 512
"""The side of the pictures that the models of SD 2.x that predict epsilon were trained on."""


class SingleFile(StableDiffusionSource):
    """One original-layout `.safetensors`. Configs and tokenizer come with Lorasmith, unless the file's metadata has
    configs (`lorasmith.configs`), as the files that Lorasmith writes do."""

    layout = "single-file"

    def __init__(self, name: str, path: Path, kind: str | None = None) -> None:
        """`name`: as the user wrote it. `kind` overrides detection. Raises NotRecognisedError if there is no UNet."""
        self.name, self.path = name, path
        self._tensors, self.metadata = read_header(path)
        self._configs = configs_in(self.metadata, path)
        unet_names = self._recognise()
        self.kind = kind or self._configs.get("kind") or self._detect_kind(unet_names)

    def _recognise(self) -> list[str]:
        """The names of the UNet's tensors. Raises NotRecognisedError if there are none."""
        contents = not_a_base(self._tensors)
        if contents is not None:
            advice = f"To do: {contents.remedy}" if contents.remedy else f"Bases of {SUPPORTED} are read"
            raise NotRecognisedError(
                f"{self.path}: is {contents.what}, not a base model, by its key {contents.key}. {advice}."
            )
        unet_names = [name for name in self._tensors if name.startswith(ldm_names.UNET)]
        if not unet_names:
            raise NotRecognisedError(
                f"{self.path}: no UNet in the original layout (no {ldm_names.UNET}*). "
                "Give a base model: a checkpoint like v1-5-pruned-emaonly.safetensors, or a diffusers folder."
            )
        return unet_names

    def _detect_kind(self, unet_names: list[str]) -> str:
        # The families differ in the width of the text states, which the keys of any cross-attention show.
        width = 0
        for name in unet_names:
            if name.endswith("attn2.to_k.weight"):
                width = self._tensors[name].shape[1]
                break
        if width not in CONTEXT_WIDTHS:
            known = ", ".join(f"{w} ({kind})" for w, kind in CONTEXT_WIDTHS.items())
            hint = f"; {_REFINER_WIDTH} is the SDXL refiner, which is not supported" if width == _REFINER_WIDTH else ""
            raise LorasmithError(f"{self.path}: its text states are {width} wide; known: {known}{hint}")
        return CONTEXT_WIDTHS[width]

    def config(self, part: str) -> dict[str, Any]:
        config = dict(self._configs.get(part) or shipped_config(self.kind, part))
        if part == "scheduler":
            config.update(self._scheduler_hints())
        return config

    def _scheduler_hints(self) -> dict[str, Any]:
        """What the file says of its schedule: modelspec metadata, the marker tensors of v-prediction models, and a YAML
        file beside it."""
        hints: dict[str, Any] = {}
        named = self.metadata.get("modelspec.prediction_type", "")
        if named == "v" or "v_pred" in self._tensors:
            hints["prediction_type"] = "v_prediction"
        elif named == "epsilon":
            hints["prediction_type"] = "epsilon"
        elif self._yaml_prediction is not None:
            hints["prediction_type"] = self._yaml_prediction
        if "ztsnr" in self._tensors:
            hints["rescale_betas_zero_snr"] = True
        return hints

    @cached_property
    def _yaml_prediction(self) -> str | None:
        from lorasmith.families.stable_diffusion.unknown_prediction import yaml_prediction

        return yaml_prediction(self.path)

    @property
    def states_prediction(self) -> bool:
        # Of the published models only those of SD 2.x differ.
        return self.kind != "sd2" or "scheduler" in self._configs or "prediction_type" in self._scheduler_hints()

    @property
    def native_size(self) -> int:
        # The shipped config of SD 2.x is that of the model for 768 pixels, which predicts v.
        if self.kind == "sd2" and "unet" not in self._configs and self.prediction == "epsilon":
            return SD2_EPSILON_SIZE
        return super().native_size

    def _prefix(self, part: str) -> str:
        """What the names of a part's tensors begin with."""
        if part == "unet":
            return ldm_names.UNET
        if part == "vae":
            return ldm_names.VAE
        return ldm_names.TEXT[self.kind, part]

    def raw(self, part: str) -> dict[str, TensorRef]:
        prefix = self._prefix(part)
        refs = {name.removeprefix(prefix): ref for name, ref in self._tensors.items() if name.startswith(prefix)}
        if not refs:
            or_vae = "; or name a VAE for it (vae)" if part == "vae" else ""
            raise LorasmithError(
                f"{self.path}: it has no {part_title(part)} (no {prefix}*). "
                f"Use a complete checkpoint, or a diffusers folder{or_vae}."
            )
        return refs

    def resolve(self, part: str, names: Iterable[str]) -> dict[str, TensorRef]:
        refs = self.raw(part)
        names = list(names)
        if part == "unet":
            return renamed(refs, {name: ldm_names.unet_name(name, self.unet_config) for name in names})
        if part == "vae":
            return original_vae(refs, names, len(self.config("vae")["block_out_channels"]))
        if self._prefix(part).endswith(".model."):
            return from_openclip(refs, names, self.config(part)["num_hidden_layers"])
        return text_encoder_names(refs, names)

    def tokenizer(self, part: str) -> Path:
        return assets() / self._configs.get("tokenizer", "clip")

    def pad(self, part: str) -> int | None:
        return self.config(part).get("pad_token_id")
