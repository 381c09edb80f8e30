"""ComfyUI's loader."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from safetensors.torch import load_file
from torch import Tensor

from tools.real_loaders.base import NamedClip


class ComfyUI(NamedClip):
    """comfy/lora.py and comfy/weight_adapter."""

    name = "ComfyUI"

    @classmethod
    def prepare(cls, folder: Path) -> None:
        """Import the loader."""
        sys.path.insert(0, str(folder))
        package = types.ModuleType("comfy")
        package.__path__ = [str(folder / "comfy")]
        sys.modules["comfy"] = package
        management: Any = types.ModuleType("comfy.model_management")
        management.cast_to_device = cast_to_device
        bases: Any = types.ModuleType("comfy.model_base")
        bases.__getattr__ = other_model
        for module in (management, bases):
            sys.modules[module.__name__] = module
            setattr(package, module.__name__.partition(".")[2], module)
        for name in ("comfy.checkpoint_pickle", "comfy.cli_args"):
            sys.modules[name] = MagicMock()
        for name in ("utils", "lora", "lora_convert"):
            setattr(package, name, importlib.import_module(f"comfy.{name}"))

    def load(self, file: Path) -> None:
        lora: Any = sys.modules["comfy.lora"]
        tensors = sys.modules["comfy.lora_convert"].convert_lora(load_file(file))
        self.unet.model_config = types.SimpleNamespace(unet_config=self.config)  # type: ignore[assignment]
        keys = lora.model_lora_keys_clip(self.text, lora.model_lora_keys_unet(self.unet, {}))
        for key, patch in lora.load_lora(tensors, keys).items():
            for side in (self.unet, self.text):
                parameter = dict(side.named_parameters()).get(key if isinstance(key, str) else key[0])
                if parameter is not None:
                    patches = [(1.0, patch, 1.0, None, None)]
                    parameter.copy_(lora.calculate_weight(patches, parameter.detach().clone(), key))


def other_model(name: str) -> type:
    """A class of models that none of ours is an instance of."""
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


def cast_to_device(tensor: Tensor, device: Any, dtype: torch.dtype, copy: bool = False) -> Tensor:
    return tensor.to(device, dtype, copy=copy)
