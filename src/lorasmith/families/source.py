"""Where a base model's parts lie: a diffusers folder, or one original-layout file. Only headers are read here."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from lorasmith.core.errors import LorasmithError
from lorasmith.core.package import assets
from lorasmith.families.reader import TensorRef, read_header
from lorasmith.families.stable_diffusion import ldm_names
from lorasmith.families.stable_diffusion.unet_config import UNetConfig

PARTS: dict[str, tuple[str, ...]] = {
    "sd1": ("unet", "vae", "te"),
    "sd2": ("unet", "vae", "te"),
    "sdxl": ("unet", "vae", "te1", "te2"),
}
CONTEXT_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Width of the text states of the real models."""
_WORDS = {"unet": "UNet", "vae": "VAE", "te": "text encoder", "te1": "first text encoder", "te2": "second text encoder"}
_IGNORED = ("position_ids", "logit_scale", "attn_mask")


def shipped_config(kind: str, part: str) -> dict[str, Any]:
    """Diffusers' or transformers' config of a part of the published models of this kind."""
    return json.loads((assets() / "configs" / kind / f"{part}.json").read_text(encoding="utf-8"))


def part_words(part: str) -> str:
    """What people call a part."""
    return _WORDS[part]


class Source(ABC):
    """The parts `unet`, `vae`, `te` (SDXL: `te1`, `te2`) of one base model on disk.

    `name`: as the user wrote it; `kind`: `sd1`, `sd2`, `sdxl`; `layout`: `diffusers` or `single-file`.
    """

    layout: str
    name: str
    path: Path
    kind: str

    @abstractmethod
    def config(self, part: str) -> dict[str, Any]:
        """The config of a part, or of the `scheduler`."""

    @abstractmethod
    def raw(self, part: str) -> dict[str, TensorRef]:
        """The tensors of a part by the names that the file gives them. Raises LorasmithError if the part is absent."""

    @abstractmethod
    def resolve(self, part: str, names: Iterable[str]) -> dict[str, TensorRef]:
        """Places of the parameters called `names` (text encoders: without `text_model.`).

        What cannot be found is left out, and what nobody asked for is added under its own name, so that the two can be
        told apart by comparing with `names`.
        """

    @abstractmethod
    def tokenizer(self, part: str) -> Path:
        """The folder with the tokenizer of a text encoder."""

    def pad(self, part: str) -> int | None:
        """The id that fills up texts for this encoder; None: the tokenizer's own."""
        return None

    def where(self, part: str) -> str:
        """Where a part lies, for messages."""
        return str(self.path)

    @cached_property
    def unet_config(self) -> UNetConfig:
        return UNetConfig.from_diffusers(self.config("unet"), self.where("unet"))

    @property
    def prediction(self) -> str:
        """`epsilon` or `v_prediction`."""
        found = self.config("scheduler").get("prediction_type", "epsilon")
        if found not in ("epsilon", "v_prediction"):
            raise LorasmithError(
                f"{self.name}: its prediction type is {found!r}; epsilon and v_prediction are supported"
            )
        return found

    @property
    def native_size(self) -> int:
        """Side in pixels of the pictures that the model was trained on."""
        return int(self.config("unet").get("sample_size", 64)) * 8

    @property
    def parameters(self) -> int:
        """The number of the UNet's weights."""
        return sum(math.prod(ref.shape) for ref in self.raw("unet").values())


class Folder(Source):
    """A diffusers folder."""

    layout = "diffusers"
    _FOLDERS: ClassVar[dict[str, str]] = {
        "te": "text_encoder",
        "te1": "text_encoder",
        "te2": "text_encoder_2",
    }

    def __init__(self, name: str, path: Path, kind: str | None = None) -> None:
        self.name, self.path = name, path
        if not (path / "unet" / "config.json").is_file():
            raise LorasmithError(f"{path}: not a model folder of diffusers (it has no unet/config.json)")
        self.kind = kind or self._kind()

    def _kind(self) -> str:
        config = self.config("unet")
        if config.get("addition_embed_type") == "text_time":
            if not (self.path / "text_encoder" / "config.json").is_file():
                raise LorasmithError(f"{self.path}: an SDXL refiner; only base models can be trained")
            return "sdxl"
        return "sd2" if config.get("use_linear_projection") else "sd1"

    def where(self, part: str) -> str:
        return str(self.path / self._FOLDERS.get(part, part))

    def config(self, part: str) -> dict[str, Any]:
        file = Path(self.where(part)) / ("scheduler_config.json" if part == "scheduler" else "config.json")
        if not file.is_file():
            if part == "scheduler":
                return shipped_config(self.kind, part)
            raise LorasmithError(f"{file}: missing; the {part_words(part)} cannot be loaded without it")
        return json.loads(file.read_text(encoding="utf-8"))

    def raw(self, part: str) -> dict[str, TensorRef]:
        refs: dict[str, TensorRef] = {}
        for file in weight_files(Path(self.where(part)), part_words(part)):
            refs.update(read_header(file)[0])
        return refs

    def resolve(self, part: str, names: Iterable[str]) -> dict[str, TensorRef]:
        if part == "unet":
            return self.raw(part)
        if part == "vae":
            return modern_vae(self.raw(part))
        return _text_refs(self.raw(part), set(names))

    def tokenizer(self, part: str) -> Path:
        folder = self.path / ("tokenizer_2" if part == "te2" else "tokenizer")
        if not folder.is_dir():
            raise LorasmithError(f"{folder}: missing; texts cannot be split into tokens without it")
        return folder


class SingleFile(Source):
    """One original-layout `.safetensors`; configs and vocabulary are ours."""

    layout = "single-file"

    def __init__(self, name: str, path: Path, kind: str | None = None) -> None:
        self.name, self.path = name, path
        self._tensors, self.metadata = read_header(path)
        self._configs: dict[str, Any] = json.loads(self.metadata.get("lorasmith.configs", "{}"))
        self.kind = kind or self._configs.get("kind") or self._kind()

    def _kind(self) -> str:
        prefix = ldm_names.UNET
        names = [n for n in self._tensors if n.startswith(prefix)]
        if not names:
            raise LorasmithError(
                f"{self.path}: no UNet in the original layout (no {prefix}*). "
                + ("It looks like a LoRA, not a base model." if _looks_like_lora(self._tensors) else "")
                + " Give a base model: a checkpoint like v1-5-pruned-emaonly.safetensors, or a diffusers folder."
            )
        key = next((n for n in names if n.endswith("attn2.to_k.weight")), None)
        width = self._tensors[key].shape[1] if key else 0
        if width not in CONTEXT_WIDTHS:
            kinds = ", ".join(f"{w} ({k})" for w, k in CONTEXT_WIDTHS.items())
            hint = "; 1280 is the SDXL refiner, which is not supported" if width == 1280 else ""
            raise LorasmithError(f"{self.path}: its text states are {width} wide; known: {kinds}{hint}")
        return CONTEXT_WIDTHS[width]

    def where(self, part: str) -> str:
        return str(self.path)

    def config(self, part: str) -> dict[str, Any]:
        config = dict(self._configs.get(part) or shipped_config(self.kind, part))
        if part == "scheduler":
            config.update(self._hints())
        return config

    def _hints(self) -> dict[str, Any]:
        """What the file itself says of its schedule: modelspec metadata, marker tensors of v-prediction models."""
        hints: dict[str, Any] = {}
        said = {"v": "v_prediction", "epsilon": "epsilon"}.get(self.metadata.get("modelspec.prediction_type", ""))
        if "v_pred" in self._tensors:
            said = "v_prediction"
        if said:
            hints["prediction_type"] = said
        if "ztsnr" in self._tensors:
            hints["rescale_betas_zero_snr"] = True
        return hints

    def prefix(self, part: str) -> str:
        fixed = {"unet": ldm_names.UNET, "vae": ldm_names.VAE}
        return fixed.get(part) or ldm_names.TEXT[self.kind, part]

    def raw(self, part: str) -> dict[str, TensorRef]:
        prefix = self.prefix(part)
        refs = {n.removeprefix(prefix): ref for n, ref in self._tensors.items() if n.startswith(prefix)}
        if not refs:
            raise LorasmithError(
                f"{self.path}: it has no {part_words(part)} (no {prefix}*). "
                "Use a complete checkpoint, or a diffusers folder."
            )
        return refs

    def resolve(self, part: str, names: Iterable[str]) -> dict[str, TensorRef]:
        refs, names = self.raw(part), list(names)
        if part == "unet":
            return _renamed(refs, {n: ldm_names.unet_name(n, self.unet_config) for n in names})
        if part == "vae":
            return vae_refs(refs, names, len(self.config("vae")["block_out_channels"]))
        if not self.prefix(part).endswith(".model."):
            return _text_refs(refs, set(names))
        return _openclip_refs(refs, names, self.config(part)["num_hidden_layers"])

    def tokenizer(self, part: str) -> Path:
        return assets() / self._configs.get("tokenizer", "clip")

    def pad(self, part: str) -> int | None:
        return self.config(part).get("pad_token_id")


def _renamed(refs: Mapping[str, TensorRef], words: Mapping[str, str]) -> dict[str, TensorRef]:
    """Tensors under our names; what no name claims stays under its own."""
    left = dict(refs)
    found = {name: left.pop(theirs) for name, theirs in words.items() if theirs in left}
    return found | left


def _text_refs(refs: dict[str, TensorRef], names: set[str]) -> dict[str, TensorRef]:
    """Transformers' text encoder: with or without `text_model.`, which versions of transformers add and drop."""
    plain = {name.removeprefix("text_model."): ref for name, ref in refs.items()}
    return {n: ref for n, ref in plain.items() if n in names or not _ignored(n)}


def _openclip_refs(refs: dict[str, TensorRef], names: Iterable[str], layers: int) -> dict[str, TensorRef]:
    found: dict[str, TensorRef] = {}
    used: set[str] = set()
    for name in names:
        key, ref = ldm_names.openclip_ref(name, refs)
        used.add(key)
        if ref is not None:
            found[name] = ref
    for key, ref in refs.items():
        layer = key.removeprefix("transformer.resblocks.").split(".")[0]
        beyond = layer.isdigit() and int(layer) >= layers  # SD 2.x never uses OpenCLIP's last layer
        if key not in used and not beyond and not _ignored(key):
            found[key] = ref
    return found


def _ignored(name: str) -> bool:
    return name.rpartition(".")[2] in _IGNORED or name.startswith("text_projection")


def vae_refs(refs: Mapping[str, TensorRef], names: Iterable[str], levels: int) -> dict[str, TensorRef]:
    """The tensors of an original-layout VAE, under diffusers' names. `levels`: of its resolutions."""
    found = _renamed(
        {n: ref for n, ref in refs.items() if not n.startswith(("loss.", "model_ema."))},
        {n: ldm_names.vae_name(n, levels) for n in names},
    )
    for name, ref in found.items():
        if ".attentions." in name and len(ref.shape) == 4:
            found[name] = ref.view(*ref.shape[:2])
    return found


def modern_vae(refs: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """Attention names of diffusers before 0.15, which the published SD 1.5 folder still has, as they are now."""
    found = {}
    for name, ref in refs.items():
        if ".attentions." in name:
            for old, new in {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}.items():
                name = name.replace(f".{old}.", f".{new}.")
        found[name] = ref
    return found


def _looks_like_lora(names: Iterable[str]) -> bool:
    return any("lora" in name for name in names)


def weight_files(folder: Path, what: str) -> list[Path]:
    """The `.safetensors` of a part: whole or in shards, plain before variants (fp16 ...)."""
    if not folder.is_dir():
        raise LorasmithError(f"{folder}: missing, so there is no {what}. Is the model folder complete?")
    indexes = sorted(folder.glob("*.safetensors.index*.json"), key=lambda p: ("non_ema" in p.name, len(p.name), p.name))
    sharded = {shard for index in indexes for shard in _shards(index)}
    files = [p for p in folder.glob("*.safetensors") if p.name not in sharded]
    files.sort(key=lambda p: ("non_ema" in p.name, p.name.count("."), "fp16" not in p.name, p.name))
    best_file = files[0] if files else None
    plain_index = next((i for i in indexes if i.name.endswith(".index.json")), None)
    if plain_index and (best_file is None or best_file.name.count(".") > 1):
        return [folder / shard for shard in _shards(plain_index)]
    if best_file:
        return [best_file]
    if indexes:
        return [folder / shard for shard in _shards(indexes[0])]
    pickles = [p.name for p in folder.iterdir() if p.suffix in (".bin", ".ckpt", ".pt", ".pth")]
    if pickles:
        raise LorasmithError(f"{folder}: only {pickles[0]}, {pickle_advice(folder / pickles[0])}")
    raise LorasmithError(f"{folder}: no .safetensors in it, so there is no {what}. Is the model folder complete?")


def _shards(index: Path) -> list[str]:
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def pickle_advice(path: Path) -> str:
    """Why pickles are refused, and the way out."""
    target = path.with_suffix(".safetensors").name
    return (
        "which is a pickle: opening it may run any code that is hidden in it. Get the .safetensors version, or convert "
        "it once, without running what is in it:\n"
        f'  python -c "import torch, safetensors.torch as s; d = torch.load({path.name!r}, map_location={"cpu"!r}, '
        f"weights_only=True); d = d.get({'state_dict'!r}, d); "
        f's.save_file({{k: v.clone().contiguous() for k, v in d.items() if hasattr(v, {"shape"!r})}}, {target!r})"'
    )
