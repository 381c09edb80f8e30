"""Adapter kinds on Flux and SD3 in every format, read as Forge and ComfyUI read them and by diffusers itself.

Forge's and ComfyUI's rules are re-stated from their code (`model_lora_keys_unet`, `flux_to_diffusers`,
`mmdit_to_diffusers`): the names that they look for, and the rows of the weight that each stands for.
"""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from matrix import Cell, is_right
from readers import Comfy, Forge, RefusedError, SkippedError
from safetensors.torch import load_file as safetensors_file
from torch import Tensor

from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.base import AdapterConfig
from lorasmith.core.errors import LorasmithError
from lorasmith.core.registry import registered
from lorasmith.families.flux.bfl_names import bfl_place
from lorasmith.families.load import load
from lorasmith.families.place import Place
from lorasmith.families.sd3.sai_names import sai_place
from lorasmith.formats.base import Format
from lorasmith.formats.consumers import reader_support
from lorasmith.formats.consumers_of_transformers import TRANSFORMER_READERS
from lorasmith.formats.read import load as load_file
from lorasmith.formats.survey import Survey
from lorasmith.formats.write import write
from tests.transformer_bases import write_flux, write_sd3

FAMILIES = {"Flux": ("flux", write_flux, "flux1"), "SD3": ("sd3", write_sd3, "sd3")}
LAYERS = (
    "transformer.transformer_blocks.0.attn.to_*",
    "transformer.transformer_blocks.0.attn.add_*",
    "transformer.transformer_blocks.0.ff.*",
    "transformer.transformer_blocks.1.norm1_context.linear",
    "transformer.single_transformer_blocks.0.proj_out",
)
TEXT = ("transformer.transformer_blocks.0.attn.to_*", "te1.text_model.encoder.layers.0.self_attn.*_proj")
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("lora", {"rank": 3, "alpha": 2}),
    "LoRA of some of q, k, v": ("lora", {"rank": 3, "layers": ("transformer.transformer_blocks.0.attn.*q*",)}),
    "LoRA with a text encoder": ("lora", {"rank": 3, "alpha": 2, "layers": TEXT}),
    "DoRA along inputs": ("dora", {"rank": 3, "alpha": 2}),
    "DoRA along outputs": ("dora", {"rank": 3, "axis": "output"}),
    "LoHa": ("loha", {"rank": 2, "alpha": 1}),
    "LoKr": ("lokr", {"rank": 2, "alpha": 1, "factor": 4}),
    "OFT": ("oft", {"block_size": 8}),
    "Full differences": ("full", {}),
}
FORMATS = ("kohya", "portable", "diff", "peft")
CASES = [(family, row, form) for family in FAMILIES for row in ROWS for form in FORMATS]
PEFT = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}


@cache
def folder(family: str) -> Path:
    place = Path(tempfile.mkdtemp()) / family
    place.mkdir()
    return FAMILIES[family][1](place)


@cache
def model(family: str) -> Any:
    return load(folder(family), dtype=torch.float32)


def place_of(family: str, path: str) -> Place:
    return bfl_place(path) if family == "Flux" else sai_place(path, 2)


@cache
def weights(family: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, (owner, leaf) in model(family).named_layers(["transformer", "te1"]).items():
        found[name] = getattr(owner, leaf).weight.detach()
    return found


class Program:
    """Forge or ComfyUI: from the names that it looks for to a part of a weight."""

    def __init__(self, name: str, family: str) -> None:
        self.family, self.is_forge = family, name == "Forge"
        self.rules = Forge() if self.is_forge else Comfy()
        self.modules: dict[str, list[str]] = {}
        for layer in weights(family):
            component, _, path = layer.partition(".")
            if component == "transformer":
                self.modules.setdefault(place_of(family, path).module, []).append(layer)

    def targets(self) -> Iterator[tuple[str, list[str]]]:
        """The names in a file, and the layers that each stands for, in the order of rows."""
        for module, layers in self.modules.items():
            in_order = sorted(layers, key=lambda layer: place_of(self.family, layer.partition(".")[2]).index)
            yield f"lora_unet_{module.replace('.', '_')}", in_order
            yield f"diffusion_model.{module}", in_order
        for layer in weights(self.family):
            component, _, path = layer.partition(".")
            if component == "te1":
                yield f"lora_te1_{path.replace('.', '_')}", [layer]
                yield f"text_encoder.{path}", [layer]
            # Forge has diffusers' names of Flux only
            elif self.family == "Flux" or not self.is_forge:
                yield f"transformer.{path}", [layer]
                yield f"lora_transformer_{path.replace('.', '_')}", [layer]
                yield f"lycoris_{path.replace('.', '_')}", [layer]

    def read(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        base, used, changed = weights(self.family), set[str](), dict[str, Tensor]()
        for name, layers in self.targets():
            keys = {key: key.removeprefix(f"{name}.") for key in tensors if key.startswith(f"{name}.")}
            # of diffusers' DoRA it does not know the magnitudes
            words = {PEFT.get(leaf, leaf): tensors[key] for key, leaf in keys.items() if "magnitude" not in leaf}
            if not words or not self.rules.finds(name, words):
                continue
            used |= {key for key in keys if "magnitude" not in key}
            # changes under diffusers' names are put into the order of the authors' files
            stored = self.stored if name.startswith(("lora_unet_", "diffusion_model.")) else as_it_is
            whole = torch.cat([stored(layer, base[layer]) for layer in layers])
            try:
                weight = self.rules.weight(words, whole)
            except SkippedError:
                continue
            rows = weight.split([len(base[layer]) for layer in layers])
            changed |= {layer: stored(layer, part) for layer, part in zip(layers, rows, strict=True)}
        if self.is_forge and len(tensors.keys() - used) > 12:
            raise RefusedError("more than 12 unknown tensors")
        return changed

    def stored(self, layer: str, weight: Tensor) -> Tensor:
        """A weight as the authors' files have it, and back."""
        component, _, path = layer.partition(".")
        is_swapped = component == "transformer" and place_of(self.family, path).halves_swapped
        return weight.roll(len(weight) // 2, 0) if is_swapped else weight


def as_it_is(layer: str, weight: Tensor) -> Tensor:
    return weight


def by_diffusers(family: str, path: Path) -> dict[str, Tensor]:
    """diffusers' pipeline, for real."""
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    logging.getLogger("peft").setLevel(logging.ERROR)
    pipe = new_pipeline(family)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipe.load_lora_weights(str(path))
            if pipe.get_list_adapters():
                pipe.fuse_lora(components=["transformer", "text_encoder"])
    except (ValueError, IndexError, KeyError, RuntimeError, AssertionError, NotImplementedError) as error:
        raise RefusedError(str(error)) from None
    found: dict[str, Tensor] = {}
    for component, part in (("transformer", pipe.transformer), ("te1.text_model", pipe.text_encoder)):
        for name, parameter in part.named_parameters():
            plain = name.replace(".base_layer", "").removeprefix("text_model.")
            if "lora" not in name and plain.endswith(".weight"):
                found[f"{component}.{plain.removesuffix('.weight')}"] = parameter.detach()
    return found


def new_pipeline(family: str) -> Any:
    """A pipeline with models of its own, which a LoRA may change."""
    pipe = pipeline(family)
    changed = {name: copy.deepcopy(pipe.components[name]) for name in ("transformer", "text_encoder")}
    return type(pipe)(**pipe.components | changed)


@cache
def pipeline(family: str) -> Any:
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    place: Any = folder(family)
    parts: dict[str, Any] = {"scheduler": FlowMatchEulerDiscreteScheduler(), "tokenizer": None, "tokenizer_2": None}
    vae: Any = model(family).vae
    if family == "Flux":
        return FluxPipeline(
            vae=vae,
            transformer=FluxTransformer2DModel.from_pretrained(place / "transformer"),  # type: ignore[arg-type]
            text_encoder=CLIPTextModel.from_pretrained(place / "text_encoder"),
            text_encoder_2=None,  # type: ignore[arg-type]
            **parts,
        )
    return StableDiffusion3Pipeline(
        vae=vae,
        transformer=SD3Transformer2DModel.from_pretrained(place / "transformer"),  # type: ignore[arg-type]
        text_encoder=CLIPTextModelWithProjection.from_pretrained(place / "text_encoder"),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(place / "text_encoder_2"),
        text_encoder_3=None,  # type: ignore[arg-type]
        tokenizer_3=None,  # type: ignore[arg-type]
        **parts,
    )


@cache
def adapters_of(family: str, row: str) -> AdapterSet:
    """Adapters with random numbers in all that is trained."""
    kind, settings = ROWS[row]
    config: Any = registered(AdapterConfig)[kind]
    config = config(**({"layers": LAYERS} | settings))
    places = model(family).named_layers(["transformer", "te1"], norms=config.on_norms)
    found = AdapterSet.create(config, places, model(family).layer_presets, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return found


def judged(family: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """`yes` if the changes are right, `partly` if what is there is right, else `wrong`; `no` if nothing is there."""
    base, states = weights(family), set[str]()
    for name, weight in wanted.items():
        if name not in found or torch.equal(found[name], base[name]):
            states.add("missing")
        else:
            states.add("right" if is_right(found[name], weight, base[name]) else "wrong")
    if "wrong" in states:
        return "wrong"
    if states == {"missing"}:
        return "no"
    return "partly" if "missing" in states else "yes"


@cache
def cells(family: str, row: str, form: str) -> dict[str, Cell] | str:
    """Reader to cell; or why the format cannot hold the kind."""
    adapters = adapters_of(family, row)
    maker: Any = registered(Format)[form]
    try:
        encoded = maker().encode_adapters(adapters.adapters, model(family), adapters.weight_of)
    except LorasmithError as error:
        return str(error)
    wanted: dict[str, Tensor] = {}
    for name, adapter in adapters.adapters.items():
        base = adapters.weight_of(name)
        wanted[name] = (base + adapter.delta(base)).detach()
    with tempfile.TemporaryDirectory() as place:
        version = {"ss_base_model_version": FAMILIES[family][2], "modelspec.architecture": FAMILIES[family][0]}
        path = write(Path(place) / "lora.safetensors", encoded.tensors, encoded.metadata | version, torch.float32)
        said = reader_support(Survey(load_file(path)))
        tensors = safetensors_file(path)
        result: dict[str, Cell] = {}
        for name in TRANSFORMER_READERS:
            try:
                is_diffusers = name == "diffusers"
                found = by_diffusers(family, path) if is_diffusers else Program(name, family).read(tensors)
                effect = judged(family, found, wanted)
            except RefusedError:
                effect = "no"
            result[name] = Cell(effect, said[name]["loads"], tuple(said[name]["remarks"]))
        return result
