"""Every adapter kind in every format, read by every reader: what comes of it, and what `lorasmith inspect` says."""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from readers import READERS, RefusedError, Weights
from safetensors.torch import load_file as safetensors_file
from torch import Tensor

from lorasmith.adapters.attach import AdapterSet
from lorasmith.adapters.base import AdapterConfig
from lorasmith.core.errors import LorasmithError
from lorasmith.core.registry import registered
from lorasmith.families.load import load
from lorasmith.families.resolve import find
from lorasmith.formats.base import Format
from lorasmith.formats.consumers import reader_support
from lorasmith.formats.read import load as load_file
from lorasmith.formats.survey import Survey
from lorasmith.formats.write import write

LAYERS = (
    "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
    "unet.mid_block.attentions.0.proj_in",
    "unet.mid_block.resnets.0.conv1",
    "unet.down_blocks.0.downsamplers.0.conv",
    "te.text_model.encoder.layers.0.self_attn.*_proj",
    "te.text_model.encoder.layers.0.mlp.fc1",
)
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA, LoCon": ("lora", {"rank": 3, "alpha": 2}),
    "LoRA, alphas by layer": ("lora", {"rank": 3, "alpha": 2, "overrides": [{"layers": "unet.mid*", "alpha": 3}]}),
    "LoRA, Tucker": ("lora", {"rank": 3, "conv_rank": 2, "tucker": True}),
    "LoRA, PiSSA": ("lora", {"rank": 2, "init": "pissa"}),
    "DoRA along inputs": ("dora", {"rank": 3, "alpha": 2}),
    "DoRA along outputs": ("dora", {"rank": 3, "axis": "output"}),
    "DoRA over LoHa": ("dora", {"rank": 2, "over": "loha"}),
    "LoHa": ("loha", {"rank": 2, "alpha": 1}),
    "LoHa, Tucker": ("loha", {"rank": 2, "tucker": True}),
    "LoKr": ("lokr", {"rank": 2, "alpha": 1, "factor": 4}),
    "LoKr, full factors": ("lokr", {"full_matrix": True, "factor": 4}),
    "LoKr, Tucker": ("lokr", {"rank": 1, "tucker": True, "factor": 4}),
    "GLoRA": ("glora", {"rank": 2}),
    "OFT": ("oft", {"block_size": 8}),
    "OFT, bounded": ("oft", {"block_size": 8, "constraint": 1e-4}),
    "BOFT": ("boft", {"block_size": 8}),
    "IA3": ("ia3", {"layers": ("*.to_k", "te.*.self_attn.k_proj", "te.*.mlp.fc1")}),
    "Full differences": ("full", {}),
    "LoKr, higher rank": ("lokr", {"rank": 16, "factor": 4}),
    "LoRA of text encoders' MLPs": ("lora", {"layers": ("te.*.mlp.*",)}),
    "LoRA, time embedding first": (
        "lora",
        {"layers": ("unet.down_blocks.0.resnets.0.time_emb_proj", "unet.mid_block.*.attn2.to_k")},
    ),
    "LoCon, alpha of a convolution": (
        "lora",
        {"rank": 3, "alpha": 2, "overrides": [{"layers": "unet.*.conv1", "alpha": 1}]},
    ),
    "LoRA, alpha of an attention": ("lora", {"rank": 3, "alpha": 2, "overrides": [{"layers": "*.to_k", "alpha": 1}]}),
    "IA3 of the UNet": ("ia3", {"layers": ("unet.*.to_k",)}),
    "Norms of text encoders": ("norm", {"layers": ("te.*layer_norm*",)}),
    "Norms of the UNet": ("norm", {"layers": ("unet.mid_block.resnets.0.norm1", "unet.down_blocks.*.norm2")}),
}
"""Name in the table, kind, settings."""
TOLERANCE = 1e-5
"""Of the norm of a change."""
ROUNDING = 4 * torch.finfo(torch.float32).eps
"""Of the norm of a weight. DoRA adds, takes a norm, divides and multiplies: four roundings."""
WORDY = "LoRA and new words in one file"
ROWS[WORDY] = ("lora", {"rank": 3, "alpha": 2})
NEW_WORDS = {"<garp1>": {"te": torch.arange(256.0).view(2, 128) / 256}, "<garp2>": {"te": torch.ones(1, 128)}}
SD1 = {"ss_base_model_version": "sd_v1"}
"""The embedded base is narrower than a real one, so that its shapes do not tell."""
FORMATS = ("kohya", "portable", "diff", "peft")
DIFFUSERS = "diffusers"
READER_NAMES = (*READERS, DIFFUSERS)
AS_LYCORIS = ("LoCon, alpha of a convolution", "LoRA, alpha of an attention")
"""Rows that are written with their own alphas, as other trainers do."""
CASES = [(row, form) for row in ROWS if row not in AS_LYCORIS for form in FORMATS if row != WORDY]
CASES += [(row, "lycoris") for row in AS_LYCORIS] + [(WORDY, "bundle")]


@dataclass(frozen=True)
class Cell:
    """What a reader makes of a file, `yes`, `partly`, `wrong` or `no`; what we say of it, and why."""

    found: str
    said: str
    why: tuple[str, ...]


@cache
def family() -> Any:
    return load("tiny-sd", dtype=torch.float32)


def adapters_of(row: str) -> AdapterSet:
    """Adapters with random numbers in all that is trained."""
    kind, settings = ROWS[row]
    config: Any = registered(AdapterConfig)[kind]
    config = config(**({"layers": LAYERS} | settings))
    places = family().named_layers(["unet", "te"], norms=config.on_norms)
    found = AdapterSet.create(config, places, family().layer_presets, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return found


def trained(adapters: AdapterSet) -> Weights:
    """Weights and biases by flat name, as training has them."""
    found: Weights = {}
    for name, adapter in adapters.adapters.items():
        flat, base = family().kohya_name(name), adapters.weight_of(name)
        found[flat] = (base + adapter.delta(base)).detach()
        if (bias := adapter.bias_delta()) is not None:
            found[f"{flat}.bias"] = (bias_of(name) + bias).detach()
    return found


def bias_of(name: str) -> Tensor:
    owner, leaf = family().named_layers([name.split(".")[0]], norms=True)[name]
    return getattr(owner, leaf).bias.detach()


@cache
def base_weights() -> Weights:
    found: Weights = {}
    for name, (owner, leaf) in family().named_layers(["unet", "te"], norms=True).items():
        layer = getattr(owner, leaf)
        flat = family().kohya_name(name)
        found[flat] = layer.weight.detach()
        if layer.bias is not None:
            found[f"{flat}.bias"] = layer.bias.detach()
    return found


def is_right(found: Tensor, wanted: Tensor, base: Tensor) -> bool:
    """Whether a weight is training's, to 1e-5 of the change, or to float32's rounding of the weight.

    A rotation within a small bound changes a weight by a thousandth, of which rounding alone is 4e-5.
    """
    allowed = max(TOLERANCE * float((wanted - base).norm()), ROUNDING * float(wanted.norm()))
    return float((found.reshape(wanted.shape) - wanted).norm()) <= allowed


def judged(found: Weights, wanted: Weights) -> str:
    """`yes` if the changes are right, `partly` if what is there is right, else `wrong`; `no` if nothing is there."""
    base = base_weights()
    right = wrong = missing = 0
    for name, weight in wanted.items():
        change = (weight - base[name]).norm()
        if change == 0:
            continue
        if name not in found or torch.equal(found[name], base[name]):
            missing += 1
        elif is_right(found[name], weight, base[name]):
            right += 1
        else:
            wrong += 1
    if wrong:
        return "wrong"
    return "no" if not right else "partly" if missing else "yes"


@cache
def loaded_pipeline() -> Any:
    from diffusers import StableDiffusionPipeline

    pipe: Any = StableDiffusionPipeline.from_pretrained(find("tiny-sd").path, local_files_only=True)
    return pipe.to(torch.float32)


def new_pipeline() -> Any:
    """A pipeline with models of its own, which a LoRA may change."""
    pipe = loaded_pipeline()
    changed = {name: copy.deepcopy(pipe.components[name]) for name in ("unet", "text_encoder")}
    return type(pipe)(**pipe.components | changed, requires_safety_checker=False)


def by_diffusers(path: Path) -> Weights:
    """Stock diffusers, for real."""
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    logging.getLogger("peft").setLevel(logging.ERROR)
    pipe = new_pipeline()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipe.load_lora_weights(path)
            pipe.fuse_lora()
    except (ValueError, IndexError, KeyError, RuntimeError) as error:
        raise RefusedError(str(error)) from None
    found: Weights = {}
    for prefix, model in (("lora_unet_", pipe.unet), ("lora_te_text_model_", pipe.text_encoder)):
        for name, p in model.named_parameters():
            path_ = name.replace(".base_layer", "").removeprefix("text_model.").rsplit(".", 1)
            if "lora" not in name and len(path_) == 2:
                flat = prefix + path_[0].replace(".", "_")
                found[flat if path_[1] == "weight" else f"{flat}.bias"] = p.detach()
    return found


@cache
def cells(row: str, form: str) -> dict[str, Cell] | str:
    """Reader to cell; or why the format cannot hold the kind."""
    adapters = adapters_of(row)
    maker: Any = registered(Format)[form]
    try:
        encoded = maker().encode_adapters(adapters.adapters, family(), adapters.weight_of)
    except LorasmithError as error:
        return str(error)
    wanted, new = trained(adapters), NEW_WORDS if row == WORDY else {}
    tensors = {**encoded.tensors, **maker().encode_tokens(new)}
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "lora.safetensors", tensors, encoded.metadata | SD1, torch.float32)
        said = reader_support(Survey(load_file(path)))
        # as other programs load it: in the order of the file
        tensors = safetensors_file(path)
        return {name: cell(name, path, tensors, (wanted, new), said[name]) for name in READER_NAMES}


def cell(name: str, path: Path, tensors: Any, wanted: tuple[Weights, Any], said: dict[str, Any]) -> Cell:
    weights, new = wanted
    try:
        found = by_diffusers(path) if name == DIFFUSERS else READERS[name].read(tensors, base_weights())
        effect = judged(found, weights)
        words = {} if name == DIFFUSERS else READERS[name].words(tensors)
        effect = "partly" if effect == "yes" and not same_words(words, new) else effect
    except RefusedError:
        effect = "no"
    return Cell(effect, said["loads"], tuple(said["remarks"]))


def same_words(found: dict[str, dict[str, Tensor]], wanted: Any) -> bool:
    """A reader's words are those of training, called as their embedding files are: without brackets."""
    plain = {word.strip("<>"): parts["te"] for word, parts in wanted.items()}
    return found.keys() == plain.keys() and all(torch.equal(found[w][""], t) for w, t in plain.items())


def table() -> Iterator[tuple[str, str, dict[str, Cell] | str]]:
    """All rows and formats."""
    for row, form in CASES:
        yield row, form, cells(row, form)
