"""Copying the ComfyUI nodes of this package into an installed ComfyUI."""

from __future__ import annotations

import shutil
from pathlib import Path

from lorasmith.core.errors import LorasmithError
from lorasmith.core.package import assets

NODES = assets() / "comfyui"
"""The folder of the nodes. It needs nothing of Lorasmith, only what ComfyUI has."""
NAME = "lorasmith"
"""The folder's name below `custom_nodes`."""


def install_comfyui_nodes(comfyui: Path) -> Path:
    """Copy the nodes into `comfyui` (its folder, or the folder `custom_nodes` in it), and return their new folder.

    Nodes that an earlier version of Lorasmith copied there are replaced. Raises LorasmithError if the folder does not
    belong to a ComfyUI, or holds another custom node under this name.
    """
    custom_nodes = comfyui if comfyui.name == "custom_nodes" else comfyui / "custom_nodes"
    if not custom_nodes.is_dir():
        raise LorasmithError(
            f"{comfyui}: not a ComfyUI folder, because it has no folder custom_nodes. Give the folder that contains "
            "main.py and custom_nodes; in the portable ComfyUI for Windows it is ComfyUI_windows_portable\\ComfyUI."
        )
    target = custom_nodes / NAME
    if target.is_dir() and not _is_ours(target):
        raise LorasmithError(
            f"{target}: exists and does not contain Lorasmith's nodes. Rename or remove that folder, and try again."
        )
    new = custom_nodes / f".{NAME}.new"
    try:
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(NODES, new, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.rmtree(target, ignore_errors=True)
        new.rename(target)
    except OSError as error:
        raise LorasmithError(f"{target}: the nodes cannot be written ({error.strerror or error}).") from None
    return target


def _is_ours(folder: Path) -> bool:
    nodes = folder / "nodes.py"
    return nodes.is_file() and "lorasmith.word." in nodes.read_text(encoding="utf-8", errors="replace")
