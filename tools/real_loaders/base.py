"""A program's loader, with a small base in the layout that the program has."""

from __future__ import annotations

import contextlib
import copy
import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lorasmith.families.stable_diffusion.ldm_names import unet_name
from lorasmith.families.stable_diffusion.text import plain_name

Weights = dict[str, Tensor]


def put(root: nn.Module, path: str, module: nn.Module) -> None:
    """Hang a module below `root` at a dotted path, with plain modules in between."""
    *parents, leaf = path.split(".")
    for name in parents:
        if not hasattr(root, name):
            root.add_module(name, nn.Module())
        root = getattr(root, name)
    root.add_module(leaf, module)


class Program(ABC):
    """One program's loader, with a base in the layout that the program has."""

    name: ClassVar[str]

    def __init__(self, family: str, model: Any) -> None:
        self.family = family
        self.places: dict[str, str] = {}
        """Our layer name to `unet:` or `text:` and the path of the module."""
        self.unet, self.text = nn.Module(), nn.Module()
        self.config = unet_config(model.unet.config)
        for name, (owner, leaf) in model.named_layers(model.components(), norms=True).items():
            component, _, path = name.partition(".")
            layer = copy.deepcopy(getattr(owner, leaf))
            if component == "unet":
                target = f"diffusion_model.{unet_name(path, model.unet.config)}"
                put(self.unet, target, plain_layer(layer))
                self.places[name] = f"unet:{target}"
            else:
                self.add_text(name, component, plain_name(path), plain_layer(layer))
        self.unet.requires_grad_(False)
        self.text.requires_grad_(False)

    @abstractmethod
    def add_text(self, name: str, component: str, path: str, layer: nn.Module) -> None:
        """Place a layer of a text encoder."""

    @abstractmethod
    def load(self, file: Path) -> None:
        """Load a file into copies of the base, `self.unet` and `self.text`. Raises what the program raises."""

    def weights(self) -> Weights:
        """The weights and biases by our layer names."""
        found: Weights = {}
        for name, place in self.places.items():
            side, _, path = place.partition(":")
            module: Any = (self.unet if side == "unet" else self.text).get_submodule(path)
            found[name] = module.weight
            if getattr(module, "bias", None) is not None:
                found[f"{name}.bias"] = module.bias
        return found

    def read(self, file: Path) -> tuple[Weights | None, str]:
        """The weights after loading, the base is left as it was; None and the error if the file is refused."""
        unet, text = self.unet, self.text
        self.unet, self.text = copy.deepcopy(unet), copy.deepcopy(text)
        try:
            with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
                self.load(file)
            return {name: tensor.detach().clone() for name, tensor in self.weights().items()}, ""
        except Exception as error:  # the programs raise anything
            return None, f"{type(error).__name__}: {error}"[:160]
        finally:
            self.unet, self.text = unet, text


def plain_layer(layer: Any) -> nn.Module:
    """A layer of torch's own class with the weights of ours."""
    weight, bias = layer.weight.detach().clone(), getattr(layer, "bias", None)
    bias = None if bias is None else bias.detach().clone()
    if weight.dim() == 4:
        made: nn.Module = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], bias=bias is not None)
    elif weight.dim() == 2:
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    else:
        groups = getattr(layer, "num_groups", None)
        made = nn.LayerNorm(weight.shape[0]) if groups is None else nn.GroupNorm(groups, weight.shape[0])
    made.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return made


def unet_config(config: Any) -> dict[str, Any]:
    """The UNet as the programs describe it."""
    depths, layers = list(config.depths), config.layers
    return {
        "num_res_blocks": [layers] * len(depths),
        "channel_mult": [1] * len(depths),
        "transformer_depth": [depth for depth in depths for _ in range(layers)],
        "transformer_depth_output": [depth for depth in depths for _ in range(layers + 1)],
        "transformer_depth_middle": max(depths[-1], 1),
    }


class NamedClip(Program):
    """Programs that have text encoders under transformers' names: `clip_l`, `clip_g`, `clip_h`."""

    clips: ClassVar[Mapping[tuple[str, str], str]] = {
        ("sd1", "te"): "clip_l",
        ("sd2", "te"): "clip_h",
        ("sdxl", "te1"): "clip_l",
        ("sdxl", "te2"): "clip_g",
    }

    def add_text(self, name: str, component: str, path: str, layer: nn.Module) -> None:
        inner = path if path.startswith("text_projection") else f"text_model.{path}"
        target = f"{self.clips[self.family, component]}.transformer.{inner}"
        put(self.text, target, layer)
        self.places[name] = f"text:{target}"
