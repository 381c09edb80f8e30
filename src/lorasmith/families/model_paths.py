"""Where a base model, a VAE or a part of a base is on this machine. No torch, and no file is opened."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from lorasmith.core.embedded_bases import EMBEDDED_BASES, folder_of
from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.families.weight_files import PICKLE_SUFFIXES, pickle_advice

_HUB_ID = r"[\w-][\w.-]*/[\w.-]+"
_HUB = "or a hub id like owner/name."
_BASES = f"A base model is {', '.join(EMBEDDED_BASES)}, a diffusers folder, an original-layout .safetensors, {_HUB}"
_PARTS = "Parts of a base are in .safetensors files, in a folder of such, or in a diffusers folder."
_VAES = f"A VAE is a diffusers folder that is one or contains one, a .safetensors, {_HUB}"


def local_base(source: str | Path) -> Path | None:
    """The folder or file of a base model on this machine; None for a hub id. Raises LorasmithError if it is neither, or
    a pickle."""
    name = str(source)
    local = _local_path(name, _BASES)
    path = Path(name).expanduser()
    # a path in its own right and anything that does not look like a hub id is a mistake
    is_hub_id = isinstance(source, str) and path.suffix != ".safetensors" and re.fullmatch(_HUB_ID, name)
    if local is None and not is_hub_id:
        raise LorasmithError(f"{name}: {_not_found(path, _BASES, EMBEDDED_BASES)}")
    return local


def local_vae(name: str) -> Path | None:
    """The folder or file of a VAE on this machine; None for a hub id. Raises LorasmithError if it is neither, or a
    pickle."""
    path = _local_path(name, _VAES)
    if path is None:
        missing = Path(name).expanduser()
        if missing.suffix == ".safetensors" or not re.fullmatch(_HUB_ID, name):
            raise LorasmithError(f"{name}: {_not_found(missing, _VAES)}")
    return path


def local_part(name: str) -> Path:
    """The folder or file of parts of a base on this machine. Raises LorasmithError if there is none, or for a
    pickle."""
    path = _local_path(name, _PARTS)
    if path is None:
        raise LorasmithError(f"{name}: {_not_found(Path(name).expanduser(), _PARTS)}")
    return path


def _local_path(name: str, what: str) -> Path | None:
    """The folder or file that `name` means on this machine, or None. Raises LorasmithError for a pickle."""
    path = Path(name).expanduser()
    if name in EMBEDDED_BASES and not path.exists():
        embedded = folder_of(name)
        if not embedded.is_dir():
            raise LorasmithError(f"the embedded base {name} is not part of this installation; reinstall lorasmith")
        return embedded
    if path.is_dir():
        return path
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise LorasmithError(f"{name} {pickle_advice(path) if path.is_file() else _not_found(path, what)}")
    return path if path.exists() else None


def _not_found(path: Path, what: str, names: Iterable[str] = ()) -> str:
    """`names`: what may be meant beside the files in the folder of `path`."""
    neighbours = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = did_you_mean(path.name, [*names, *neighbours])
    return f"no such file or folder. {what}{' ' + hint if hint else ''}"
