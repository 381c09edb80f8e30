"""A1111's loader."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import MagicMock

import torch
from torch import nn

from lorasmith.families.stable_diffusion.ldm_names import openclip_ref
from tools.real_loaders.base import Program, Weights, put
from tools.real_loaders.stubs import STUBS, on_path, stub_lists


class A1111(Program):
    """extensions-builtin/Lora."""

    name = "A1111"
    networks: ClassVar[Any] = None

    @classmethod
    def prepare(cls, folder: Path) -> None:
        """Import the loader."""
        for name in STUBS:
            sys.modules[name] = MagicMock()
        stub_lists()
        with on_path(folder / "extensions-builtin" / "Lora"):
            cls.networks = importlib.import_module("networks")
        cls.networks.extra_network_lora = types.SimpleNamespace(errors={})

    def add_text(self, name: str, component: str, path: str, layer: nn.Module) -> None:
        prefix = {"te1": "0.", "te2": "1."}.get(component, "")
        if (self.family, component) in (("sd1", "te"), ("sdxl", "te1")):
            target = f"{prefix}transformer.text_model.{path}"
            put(self.text, target, layer)
        else:
            target = prefix + self.add_openclip(prefix, path, layer)
        self.places[name] = f"text:{target}"

    def add_openclip(self, prefix: str, path: str, layer: Any) -> str:
        """OpenCLIP's names. q, k and v are thirds of one tensor of torch's own attention; the place of a third has its
        number at the end. The text projection is a parameter, not a layer, so the loader cannot find it."""
        if path == "text_projection":
            put(self.text, f"{prefix}unreached.text_projection", layer)
            return "unreached.text_projection"
        key = f"model.{openclip_ref(path + '.weight', {})[0]}".removesuffix(".weight")
        third = next((i for i, letter in enumerate("qkv") if f"self_attn.{letter}_proj" in path), None)
        if ".attn." not in key:
            put(self.text, prefix + key, layer)
            return key
        attention = key.partition(".attn.")[0] + ".attn"
        try:
            made: Any = self.text.get_submodule(prefix + attention)
        except AttributeError:
            made = nn.MultiheadAttention(layer.weight.shape[0], 1)
            put(self.text, prefix + attention, made)
        width = layer.weight.shape[0]
        with torch.no_grad():
            if third is None:
                made.out_proj.load_state_dict(layer.state_dict())
                return f"{attention}.out_proj"
            made.in_proj_weight[third * width : (third + 1) * width] = layer.weight
            made.in_proj_bias[third * width : (third + 1) * width] = layer.bias
        return f"{attention}.third.{third}"

    def weights(self) -> Weights:
        found: Weights = {}
        for name, place in self.places.items():
            side, _, path = place.partition(":")
            root = self.unet if side == "unet" else self.text
            attention, _, third = path.partition(".third.")
            module: Any = root.get_submodule(attention)
            if third:
                found[name] = module.in_proj_weight.chunk(3)[int(third)]
                found[f"{name}.bias"] = module.in_proj_bias.chunk(3)[int(third)]
                continue
            found[name] = module.weight
            if getattr(module, "bias", None) is not None:
                found[f"{name}.bias"] = module.bias
        return found

    def load(self, file: Path) -> None:
        networks = self.networks
        model: Any = types.SimpleNamespace(is_sdxl=self.family == "sdxl", model=self.unet)
        if model.is_sdxl:
            embedders = [types.SimpleNamespace(wrapped=self.text.get_submodule(index)) for index in "01"]
            model.conditioner = types.SimpleNamespace(embedders=embedders)
        else:
            model.cond_stage_model = types.SimpleNamespace(wrapped=self.text)
        sys.modules["modules"].shared.sd_model = model
        networks.shared.sd_model = model
        networks.assign_network_names_to_compvis_modules(model)
        net = networks.load_network("lora", types.SimpleNamespace(filename=str(file)))
        net.dyn_dim = None
        networks.loaded_networks[:] = [net]
        for module in model.network_layer_mapping.values():
            # Torch's attention does not call the layer of its output.
            if type(module) in (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention):
                networks.network_apply_weights(module)
