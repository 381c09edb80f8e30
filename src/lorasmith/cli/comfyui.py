"""`lorasmith comfyui`: copy the nodes for layer-wise tokens into ComfyUI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorasmith.cli import console


def comfyui_command(
    install: Annotated[
        Path | None,
        typer.Option("--install", metavar="COMFYUI", help="The folder of ComfyUI; the nodes are copied into it."),
    ] = None,
) -> None:
    """Copy the ComfyUI nodes for LoRAs with layer-wise tokens into ComfyUI.

    LoRAs without new tokens need no node: put them into ComfyUI/models/loras.
    """
    from lorasmith.integrations.install_comfyui import NODES, install_comfyui_nodes

    if install is None:
        console.show(f"nodes: {NODES}")
        console.say("Copy this folder into ComfyUI/custom_nodes, or run: lorasmith comfyui --install COMFYUI")
        return
    target = install_comfyui_nodes(install)
    console.show(f"installed: {target}")
    console.say("Restart ComfyUI, and put NAME.exact.safetensors into ComfyUI/models/loras. The nodes are listed under")
    console.say(f"loaders and conditioning, with (Lorasmith) in their names; {target / 'README.md'} explains them.")
