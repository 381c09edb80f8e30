"""From what the user wrote (`tiny-sd`, `tiny-flow`, a path, a hub id) to the files of a base model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lorasmith.core.errors import LorasmithError
from lorasmith.families.fingerprint import file_hash, part_hash
from lorasmith.families.model_paths import local_base, local_part, local_vae
from lorasmith.families.registry import loader_of, loaders, open_source
from lorasmith.families.source import Source

_CONFIGS = ["model_index.json", "*/config.json", "scheduler/*.json", "tokenizer*/*", "*/*.index.json"]
_VAE_WEIGHTS = "diffusion_pytorch_model"


@dataclass(frozen=True)
class BaseInfo:
    """What the headers and configs of a base model say."""

    source: str
    path: Path
    kind: str
    """`sd1`, `sd2`, `sdxl`."""
    layout: str
    """`diffusers` or `single-file`."""
    prediction: str
    context: int
    """The width of the text states."""
    parameters: int
    """The number of weights of the denoiser."""
    stored: torch.dtype
    """The dtype of the denoiser in the file."""
    denoiser_component: str

    @property
    def name(self) -> str:
        """File or folder name without its suffix."""
        return self.path.stem if self.path.is_file() else self.path.name

    @property
    def hash(self) -> str:
        """SHA-256 of the file, or of a folder's denoiser. The first time all of it is read, later a cache answers."""
        if self.path.is_file():
            return file_hash(self.path)
        return part_hash(open_source(self.source, self.path, self.kind), self.denoiser_component)


def identify(source: str | Path) -> BaseInfo:
    """What kind of base model `source` is, from headers and configs only. Raises LorasmithError if it is none."""
    base = find(source)
    first_tensor = next(iter(base.raw(base.denoiser_component).values()))
    return BaseInfo(
        source=base.name,
        path=base.path,
        kind=base.kind,
        layout=base.layout,
        prediction=base.prediction,
        context=base.context_width,
        parameters=base.parameters,
        stored=first_tensor.dtype,
        denoiser_component=base.denoiser_component,
    )


def find(source: str | Path, family: str | None = None) -> Source:
    """The parts of the base model that `source` names. Raises LorasmithError if there is none or it is a pickle."""
    if family is not None:
        loader_of(family)  # a misspelled family is reported before anything is fetched
    name = str(source)
    local = local_base(source)
    if local is not None:
        return open_source(name, local, family)
    stems: list[str] = []
    denoisers: list[str] = []
    for loader in loaders():
        stems += [f"{folder}/{stem}" for folder, stem in loader.hub_weights.items()]
        denoisers.append(f"{next(iter(loader.hub_weights))}/*.safetensors")
    return open_source(name, _from_hub(name, stems, _CONFIGS, denoisers), family)


def with_vae(base: Source, name: str) -> Source:
    """`base` with the VAE that `name` names: a diffusers folder that is one or contains one, a hub id of such, or a
    `.safetensors` in the original layout. Raises LorasmithError if there is none or it is a pickle."""
    path = local_vae(name)
    if path is None:
        stems = (f"vae/{_VAE_WEIGHTS}", _VAE_WEIGHTS)
        path = _from_hub(name, stems, ["config.json", "vae/config.json"], ["**/*.safetensors"])
    return loader_of(base.kind).replace_vae(base, path)


def with_parts(base: Source, names: Sequence[str]) -> Source:
    """`base` with the parts that its file lacks: `names` are `.safetensors` files, folders of them, or diffusers
    folders. Raises LorasmithError if there is no such file, or no part in it that the model takes."""
    if not names:
        return base
    paths: list[Path] = []
    for name in names:
        try:
            paths.append(local_part(name))
        except LorasmithError as error:
            raise LorasmithError(f"base_parts: {error}") from None
    return loader_of(base.kind).with_parts(base, paths)


def _from_hub(name: str, stems: Iterable[str], configs: Sequence[str], signs: Sequence[str]) -> Path:
    """The local copy of a hub repository: its configs and one set of `.safetensors`. The fp16 variant is fetched only
    if there is no other.

    `stems`: of the weight files; `signs`: patterns of which one matches if the plain weight files were fetched.
    """
    from huggingface_hub import snapshot_download

    plain: list[str] = []
    variant: list[str] = []
    for stem in stems:
        plain += [f"{stem}.safetensors", f"{stem}-?????-of-?????.safetensors"]
        variant.append(f"{stem}.fp16*.safetensors")
    try:
        path = Path(snapshot_download(name, allow_patterns=[*configs, *plain]))
        if not any(list(path.glob(sign)) for sign in signs):
            path = Path(snapshot_download(name, allow_patterns=[*configs, *variant]))
    except Exception as error:  # the hub's client raises errors of several libraries
        offline = " (offline mode is on)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", "") else ""
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise LorasmithError(
            f"{name}: there is no such folder here, and fetching it from the hub failed{offline}: {reason}\n"
            "  Check the spelling and the connection, or give a local folder or .safetensors file."
        ) from error
    return path
