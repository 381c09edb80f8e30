"""What A1111, Forge and ComfyUI themselves make of our files: `python -m tools.real_loaders --a1111 FOLDER ...`.

Runs the programs' own loaders from folders with their source code, which is not part of this repository, on small
random bases on the CPU, and writes tests/parity/consumers/programs.json. What is not about LoRA (user interface,
memory management, the models themselves) is replaced by stand-ins; names of keys, products of factors, and what is
refused come from the programs' code.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import io
import json
import logging
import re
import sys
import tempfile
import types
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import MagicMock

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lorasmith.families.stable_diffusion.ldm_names import openclip_ref, unet_name
from lorasmith.families.stable_diffusion.text import plain_name

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "tests" / "parity" / "consumers" / "programs.json"
TOLERANCE = 1e-5
"""Of the norm of a change."""
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


STUBS = (
    *("gradio", "modules", "modules.shared", "modules.devices", "modules.sd_models", "modules.errors"),
    *("modules.scripts", "modules.sd_hijack", "modules.textual_inversion", "modules.cache", "modules.hashes"),
    *("modules.textual_inversion.textual_inversion", "modules.models", "modules.models.sd3"),
    *("modules.models.sd3.mmdit", "modules.patches", "modules.extra_networks"),
)


def stub_lists() -> None:
    """Stand-ins that the extensions look into when they are imported."""
    shared = sys.modules["modules"].shared
    shared.cmd_opts.lora_dir = tempfile.mkdtemp()
    shared.walk_files = lambda *a, **k: []
    sys.modules["modules"].sd_models.read_state_dict = load_file
    mmdit = sys.modules["modules.models.sd3.mmdit"]
    mmdit.QkvLinear = type("QkvLinear", (nn.Linear,), {})  # type: ignore[attr-defined]
    sys.modules["modules"].models.sd3.mmdit = mmdit
    sys.modules["modules"].devices.cpu = torch.device("cpu")
    sys.modules["modules"].devices.dtype = torch.float32


@contextlib.contextmanager
def on_path(folder: Path) -> Any:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


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


PROGRAMS: dict[str, Any] = {"a1111": A1111, "forge": Forge, "comfyui": ComfyUI}


def effect(found: Weights | None, base: Weights, wanted: Weights) -> dict[str, list[str]]:
    """Of the layers and biases that training changed: `right`, `wrong` and `missing` (as in the base)."""
    names: dict[str, list[str]] = {"right": [], "wrong": [], "missing": []}
    for name, weight in wanted.items():
        change = (weight - base[name]).norm()
        if change == 0:
            continue
        if found is None or torch.equal(found[name], base[name]):
            names["missing"].append(name)
        elif float((found[name].reshape(weight.shape) - weight).norm() / change) <= TOLERANCE:
            names["right"].append(name)
        else:
            names["wrong"].append(name)
    others = set() if found is None else {n for n in found if n not in wanted and not torch.equal(found[n], base[n])}
    names["wrong"] += sorted(others)
    return names


def patterns(layers: list[str]) -> list[str]:
    """Names of layers with `*` for their numbers, each once."""
    return sorted({re.sub(r"\.\d+(?=\.|$)", ".*", layer) for layer in layers})


def verdict(names: Mapping[str, list[str]]) -> str:
    """`yes`, `partly`, `wrong` or `no`."""
    if names["wrong"]:
        return "wrong"
    return "no" if not names["right"] else "partly" if names["missing"] else "yes"


def run(programs: list[str], folder: Path) -> dict[str, Any]:
    """Program, family, row and format to what came of the file."""
    from program_cases import FAMILIES, base, cases, write_case  # pyright: ignore[reportMissingImports]

    made = {(name, family): PROGRAMS[name](family, base(family, folder)) for name in programs for family in FAMILIES}
    table: dict[str, Any] = {}
    for case in cases(folder):
        path = write_case(case, folder / "lora.safetensors")
        for name in programs:
            program = made[name, case.family]
            found, error = program.read(path)
            names = effect(found, program.weights(), case.trained)
            entry: dict[str, Any] = {"loads": verdict(names)}
            entry |= {kind: patterns(layers) for kind, layers in names.items() if layers and kind != "right"}
            if error:
                entry = {"loads": "no", "error": error}
            table.setdefault(program.name, {}).setdefault(case.family, {}).setdefault(case.row, {})[case.form] = entry
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in PROGRAMS:
        parser.add_argument(f"--{name}", type=Path, help="folder with the program's source code")
    parser.add_argument("--out", type=Path, default=TABLE)
    given = vars(parser.parse_args())
    logging.disable(logging.CRITICAL)
    sys.path.insert(0, str(TABLE.parent))
    programs = [name for name in ("forge", "a1111", "comfyui") if given[name]]
    with tempfile.TemporaryDirectory() as folder:
        for name in programs:
            PROGRAMS[name].prepare(given[name].resolve())
        table = run(programs, Path(folder))
    given["out"].write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(
        f"{given['out']}: {sum(len(forms) for p in table.values() for f in p.values() for forms in f.values())} cells"
    )


if __name__ == "__main__":
    main()
