"""From what the user wrote (`tiny-sd`, a path, a hub id) to the files of a base model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.core.package import assets
from lorasmith.families.fingerprint import file_hash, part_hash
from lorasmith.families.source import PARTS, Folder, SingleFile, Source, pickle_advice
from lorasmith.families.stable_diffusion.other_vae import OtherVae

EMBEDDED = "tiny-sd"
_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_CONFIGS = ["model_index.json", "*/config.json", "scheduler/*.json", "tokenizer*/*", "*/*.index.json"]
_HUB_ID = r"[\w-][\w.-]*/[\w.-]+"
_BASES = "A base model is tiny-sd, a diffusers folder, an original-layout .safetensors"
_VAES = "A VAE is a folder of diffusers that is one or has one, a .safetensors"
_WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder*": "model"}


@dataclass(frozen=True)
class BaseInfo:
    """What can be said of a base model from its headers and configs.

    `kind`: `sd1`, `sd2`, `sdxl`; `layout`: `diffusers` or `single-file`; `context`: width of the text states;
    `parameters`: weights of the UNet; `stored`: dtype of the UNet in the file.
    """

    source: str
    path: Path
    kind: str
    layout: str
    prediction: str
    context: int
    parameters: int
    stored: torch.dtype

    @property
    def name(self) -> str:
        """File or folder name without its ending."""
        return self.path.stem if self.path.is_file() else self.path.name

    @property
    def hash(self) -> str:
        """SHA-256 of the file, or of a folder's UNet. Reads it all the first time, then it is remembered."""
        if self.path.is_file():
            return file_hash(self.path)
        return part_hash(Folder(self.source, self.path, self.kind), "unet")


def identify(source: str | Path) -> BaseInfo:
    """What kind of base model `source` is; reads headers and configs only. Raises LorasmithError if it is none."""
    base = find(source)
    refs = base.raw("unet")
    stored = next(iter(refs.values())).dtype
    return BaseInfo(
        base.name, base.path, base.kind, base.layout, base.prediction, base.unet_config.context, base.parameters, stored
    )


def find(source: str | Path, family: str | None = None) -> Source:
    """The parts of the base model that `source` names. Raises LorasmithError if there is none or it is a pickle."""
    if family is not None and family not in PARTS:
        hint = did_you_mean(family, PARTS)
        raise LorasmithError(f'no family is called "{family}"; there are {", ".join(PARTS)}. {hint}'.rstrip())
    name = str(source)
    if name == EMBEDDED and not Path(name).exists():
        path = assets() / EMBEDDED
        if not path.is_dir():
            raise LorasmithError("the embedded base tiny-sd is not part of this installation; reinstall lorasmith")
        return Folder(name, path, family)
    path = Path(name).expanduser()
    if path.is_dir():
        return Folder(name, path, family)
    if path.suffix.lower() in _PICKLES:
        raise LorasmithError(f"{name} {pickle_advice(path) if path.is_file() else _no_such(path)}")
    if path.is_file():
        return SingleFile(name, path, family)
    if isinstance(source, Path) or path.suffix == ".safetensors" or not re.fullmatch(_HUB_ID, name):
        raise LorasmithError(f"{name}: {_no_such(path)}")
    stems = [f"{part}/{stem}" for part, stem in _WEIGHTS.items()]
    return Folder(name, _from_hub(name, stems, _CONFIGS, "unet/*.safetensors"), family)


def with_vae(base: Source, name: str) -> Source:
    """`base` with the VAE that `name` names: a folder of diffusers that is one or has one, a hub id of such, or a
    `.safetensors` in the original layout. Raises LorasmithError if there is none or it is a pickle."""
    path = assets() / EMBEDDED if name == EMBEDDED and not Path(name).exists() else Path(name).expanduser()
    if path.suffix.lower() in _PICKLES:
        raise LorasmithError(f"{name} {pickle_advice(path) if path.is_file() else _no_such(path, _VAES)}")
    if path.exists():
        return OtherVae(base, path)
    if path.suffix == ".safetensors" or not re.fullmatch(_HUB_ID, name):
        raise LorasmithError(f"{name}: {_no_such(path, _VAES)}")
    stems = (f"vae/{_WEIGHTS['vae']}", _WEIGHTS["vae"])
    return OtherVae(base, _from_hub(name, stems, ["config.json", "vae/config.json"], "**/*.safetensors"))


def _no_such(path: Path, what: str = _BASES) -> str:
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = did_you_mean(path.name, beside)
    return f"no such file or folder. {what}, or a hub id like owner/name.{' ' + hint if hint else ''}"


def _from_hub(name: str, stems: Iterable[str], configs: list[str], sign: str) -> Path:
    """The local copy of a hub repository: configs and one set of `.safetensors`, the fp16 variant only if alone.

    `stems`: of the weight files; `sign`: a pattern that finds some where the plain ones are there.
    """
    from huggingface_hub import snapshot_download

    weights = list(stems)
    plain = [p for w in weights for p in (f"{w}.safetensors", f"{w}-?????-of-?????.safetensors")]
    variant = [f"{w}.fp16*.safetensors" for w in weights]
    try:
        path = Path(snapshot_download(name, allow_patterns=[*configs, *plain]))
        if not list(path.glob(sign)):
            path = Path(snapshot_download(name, allow_patterns=[*configs, *variant]))
    except Exception as error:  # the hub's client raises errors of several libraries
        offline = " (offline mode is on)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", "") else ""
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise LorasmithError(
            f"{name}: there is no such folder here, and the hub could not give it{offline}: {reason}\n"
            "  Check the spelling and the connection, or give a local folder or .safetensors file."
        ) from error
    return path
