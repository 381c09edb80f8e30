"""Forge's loader."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import MagicMock

from safetensors.torch import load_file
from torch import nn

from tools.real_loaders.base import NamedClip
from tools.real_loaders.comfyui import cast_to_device
from tools.real_loaders.stubs import STUBS, on_path, stub_lists


class Forge(NamedClip):
    """backend/patcher/lora.py and the loader of the LoRA extension."""

    name = "Forge"

    @classmethod
    def prepare(cls, folder: Path) -> None:
        """Import the loader."""
        sys.path.insert(0, str(folder))
        for name in ("backend", "backend.patcher"):
            package = types.ModuleType(name)
            package.__path__ = [str(folder / name.replace(".", "/"))]
            sys.modules[name] = package
        memory: Any = types.ModuleType("backend.memory_management")
        memory.cast_to_device = cast_to_device
        sys.modules["backend.memory_management"] = memory
        sys.modules["backend"].memory_management = memory  # type: ignore[attr-defined]
        for name in ("backend.utils", "backend.args", "backend.operations", *STUBS):
            sys.modules[name] = MagicMock()
        stub_lists()
        with on_path(folder / "extensions-builtin" / "sd_forge_lora"):
            cls.networks = importlib.import_module("networks")
        for name in ("networks", "network", "lora_logger"):
            sys.modules.pop(name, None)

    networks: ClassVar[Any] = None

    def load(self, file: Path) -> None:
        merge = sys.modules["backend.patcher.lora"].merge_lora_to_weight
        self.unet.diffusion_model.config = self.config  # type: ignore[union-attr, assignment]
        self.unet.config = types.SimpleNamespace(huggingface_repo="")  # type: ignore[assignment]
        patchers = [Patcher(self.unet), Patcher(self.text)]
        clip: Any = patchers[1]
        clip.cond_stage_model = self.text
        found = self.networks.load_lora_for_models(patchers[0], clip, load_file(file), 1.0, 1.0)
        for side, patcher in zip((self.unet, self.text), found, strict=True):
            parameters = dict(side.named_parameters())
            for key, patches in patcher.patches.items():
                parameters[key].copy_(merge(patches, parameters[key].detach().clone(), key))


class Patcher:
    """As Forge's: patches that are kept for the parameters that the model has."""

    def __init__(self, model: nn.Module, patches: Any = None) -> None:
        self.model, self.patches = model, dict(patches or {})
        self.cond_stage_model = model

    def clone(self) -> Patcher:
        return Patcher(self.model, self.patches)

    def add_patches(self, *, patches: Any, strength_patch: float = 1.0, **_: Any) -> set[Any]:
        known = {key for key, _ in self.model.named_parameters()}
        kept = {key for key in patches if key in known}
        for key in kept:
            self.patches.setdefault(key, []).append([strength_patch, patches[key], 1.0, None, None])
        return kept
