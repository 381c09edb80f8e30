"""A LoRA file decoded by layer, and writing a file that was made from others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorasmith.adapters.base import Adapter, LayerSpec, kind_of
from lorasmith.core.dtypes import DTYPES
from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.core.file_names import check_output_name
from lorasmith.core.file_strength import split_strength
from lorasmith.core.package import VERSION
from lorasmith.core.registry import registered
from lorasmith.families.place import Place
from lorasmith.files.model import ModelLayers
from lorasmith.formats import bundle, diff, kohya, mixofshow, peft, plugins  # noqa: F401
from lorasmith.formats.base import Encoded, Format
from lorasmith.formats.embeddings import BUNDLE_PREFIX
from lorasmith.formats.joint_modules import join_modules, split_modules
from lorasmith.formats.lora_file import LoraFile
from lorasmith.formats.metadata import network_module
from lorasmith.formats.metadata_json import json_list
from lorasmith.formats.other_files import contents_advice
from lorasmith.formats.read import load
from lorasmith.formats.rewrite import LayerTensors, alpha_of, to_plain_lora
from lorasmith.formats.survey import Survey, component_of

HISTORY_KEY = "lorasmith.history"
STALE_PREFIXES = ("sshs_", "lora_adapter_metadata", "format", "modelspec.hash")
"""Metadata keys that no longer hold for a changed file."""
SHAPE_ERRORS = (RuntimeError, KeyError, IndexError, ValueError)
"""What operations raise on tensors of wrong shapes."""


@dataclass(frozen=True)
class LoraInput:
    """A LoRA file and the strength that it is applied with."""

    path: Path
    strength: float = 1.0

    @classmethod
    def parse(cls, text: str | Path) -> LoraInput:
        """`file.safetensors` or `file.safetensors:0.8`."""
        path, strength = split_strength(str(text))
        return cls(path, strength)


@dataclass(frozen=True)
class OutputFile:
    """Where and how to write a LoRA. `dtype` None: that of the file that was read."""

    path: Path
    dtype: torch.dtype | None = None
    overwrite: bool = False

    def check(self, suffix: str = ".safetensors") -> None:
        """Raise LorasmithError if the file exists and must not be replaced, has a wrong suffix, or a name that some
        system does not take."""
        if self.path.exists() and not self.overwrite:
            raise LorasmithError(f"{self.path}: exists already; give --overwrite, or another name with -o")
        if self.path.suffix != suffix:
            raise LorasmithError(f"{self.path}: such a LoRA is written as {suffix}; give such a name with -o")
        check_output_name(self.path)


@dataclass(frozen=True)
class DecodedLora:
    """A file's changes by layer, with kohya's tensor names."""

    path: Path
    model: ModelLayers
    layers: dict[str, LayerTensors]
    metadata: dict[str, str]
    spelling: str = "kohya"
    dtype: torch.dtype = torch.float32
    bundled: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors of bundled new tokens, by their keys in the file."""
    tokens: tuple[str, ...] = ()
    """New tokens in Lorasmith's own format, which operations on layers do not copy."""
    notes: tuple[str, ...] = ()
    """What was left out or assumed when the file was read, for the user."""

    def plain_lora(self, layer: str) -> LayerTensors | None:
        """A layer's change as plain LoRA; None if it has no such form. Raises LorasmithError for wrong shapes."""
        with self.explain_shape_errors(layer):
            return to_plain_lora(self.layers[layer], self.model.layers[layer].shape)

    @contextmanager
    def explain_shape_errors(self, layer: str) -> Iterator[None]:
        """Turn what tensors of wrong shapes raise inside the `with` block into a LorasmithError about this layer."""
        try:
            yield
        except SHAPE_ERRORS:
            raise shape_error(self.path, self.model, layer, self.layers[layer]) from None


@dataclass
class FileReport:
    """What a file operation wrote."""

    file: Path
    layers: int
    error: float | None = None
    """|new - old| / |old| of all changes; None where nothing was approximated."""
    worst: tuple[str, float] | None = None
    """The layer with the largest error, and that error."""
    ranks: dict[int, int] = field(default_factory=dict)
    """How many layers have which rank."""
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """The report as JSON values."""
        files = [self.file] if self.file.is_file() else self.file.rglob("*.safetensors")
        worst = None if self.worst is None else {"layer": self.worst[0], "error": self.worst[1]}
        return {
            "file": str(self.file),
            "bytes": sum(file.stat().st_size for file in files),
            "layers": self.layers,
            "error": self.error,
            "worst": worst,
            "ranks": {str(rank): count for rank, count in sorted(self.ranks.items())},
            "notes": self.notes,
        }


def dtype_named(name: str | None) -> torch.dtype | None:
    """The dtype of `fp32`, `fp16` or `bf16`; None for None."""
    if name is None:
        return None
    if name not in DTYPES:
        raise LorasmithError(f"--dtype {name}: must be one of {', '.join(DTYPES)}")
    return DTYPES[name]


# --- reading


def read(path: Path, model: ModelLayers | None = None) -> DecodedLora:
    """A LoRA of any spelling, for `model`, or for the published models of the family that its widths show.

    Raises LorasmithError if the family is unknown, or if tensors belong to no layer of the model or do not fit it.
    """
    return decode(load(path), model)


def decode(file: LoraFile, model: ModelLayers | None = None) -> DecodedLora:
    """`read` for a file that is loaded already."""
    model = _model_for(file, model)
    layers, unknown_keys = kohya.decode_modules(file.tensors, model)
    if unknown_keys or not layers:
        raise _unknown_layers(file, model, unknown_keys)
    for layer, tensors in layers.items():
        _check_shapes(file, model, layer, tensors)

    # the file's dtype is the commonest one; alphas (scalars) and integers do not count
    dtypes = Counter(tensor.dtype for tensor in file.tensors.values() if tensor.dim() and tensor.is_floating_point())
    dtype = dtypes.most_common(1)[0][0] if dtypes else torch.float32
    notes = list(file.notes)
    if dtype.itemsize == 1:
        notes.append("it is in fp8, which few programs read; written in fp16, which holds the same numbers")
        dtype = torch.float16
    bundled: dict[str, Tensor] = {}
    for token, parts in file.bundled_embeddings.items():
        for part, tensor in parts.items():
            bundled[f"{BUNDLE_PREFIX}{token}.{part}"] = tensor
    tokens, metadata = tuple(file.token_embeddings), dict(file.metadata)
    return DecodedLora(file.path, model, layers, metadata, file.spelling, dtype, bundled, tokens, tuple(notes))


def _unknown_layers(file: LoraFile, model: ModelLayers, unknown_keys: Sequence[str]) -> LorasmithError:
    """The error for a file with tensors of no layer of `model`; without `unknown_keys`, for one without layers."""
    if not unknown_keys:
        return LorasmithError(f"{file.path}: not a LoRA; it has no layers{contents_advice(file.original_keys)}")
    lacking = _lacking_text_encoders(model, unknown_keys)
    if lacking:
        return LorasmithError(f"{file.path}: {lacking}")
    remedy = "is it for another model?" if model.source else "name the base that it was made for with --base"
    return LorasmithError(
        f"{file.path}: {len(unknown_keys)} of its {len(file.tensors)} tensors belong to no layer of {model}, "
        f"for example {unknown_keys[0]}; {remedy}{contents_advice(file.original_keys)}"
    )


def _lacking_text_encoders(model: ModelLayers, unknown_keys: Sequence[str]) -> str:
    """Why the base has no layers for tensors of its text encoders; empty if the tensors are of something else."""
    if model.source is None:
        return ""
    names = {component_of(key.partition(".")[0]) for key in unknown_keys}
    encoders = (*model.source.text_components, *model.source.frozen_text_encoders)
    reasons = {name: model.source.missing_reason(name) for name in encoders if name in names}
    if not all(reasons.values()) or names != reasons.keys():
        return ""
    return (
        f"it changes text encoders that the base lacks: {', '.join(reasons)} ({next(iter(reasons.values()))})\n"
        "  Name a base that has them, or, where no weights of the base are needed, leave --base out"
    )


def notes_of(loras: Sequence[DecodedLora]) -> list[str]:
    """The notes of several files, each with the name of its file."""
    return [f"{lora.path.name}: {note}" for lora in loras for note in lora.notes]


def _model_for(file: LoraFile, model: ModelLayers | None) -> ModelLayers:
    """The given model if the file is for its family, or else the published models of the file's family."""
    family = Survey(file).family
    if model is None:
        if family is None:
            raise LorasmithError(
                f"{file.path}: its shapes do not show which models it is for; name one with --base"
                + contents_advice(file.original_keys)
            )
        widths = {size for tensor in file.tensors.values() for size in tensor.shape}
        return ModelLayers.published(family, widths)
    # text encoders alone can look like those of another family
    has_denoiser_layers = any(key.startswith(("lora_unet_", "lora_transformer_")) for key in file.tensors)
    if family not in (None, model.kind) and has_denoiser_layers:
        raise LorasmithError(f"{file.path}: it is for {family}, not for {model}")
    return model


def _check_shapes(file: LoraFile, model: ModelLayers, layer: str, tensors: LayerTensors) -> None:
    """Raise LorasmithError if a layer's tensors are of no known kind, or do not fit it. Compares shapes only, so that
    nothing is computed with factors whose product would be huge."""
    kind = kind_of(tensors)
    if kind is None:
        raise LorasmithError(
            f"{file.path}: {layer} has tensors of no known adapter kind: {', '.join(sorted(tensors))}"
            + plugins.advice(file.metadata)
        )
    if not kind.fits(model.layers[layer], tensors):
        raise shape_error(file.path, model, layer, tensors)


def restore_adapter(lora: DecodedLora, layer: str, base: Tensor) -> Adapter:
    """One layer's adapter. Raises LorasmithError if its tensors do not fit the layer."""
    tensors = lora.layers[layer]
    kind = kind_of(tensors)
    assert kind is not None
    with lora.explain_shape_errors(layer):
        return kind().restore(lora.model.layers[layer], base, tensors).eval()


def shape_error(path: Path, model: ModelLayers, layer: str, tensors: LayerTensors) -> LorasmithError:
    """The error for tensors that do not fit their layer."""
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items() if tensor.dim())
    remedy = "" if model.source else "; name the base that it was made for with --base"
    return LorasmithError(
        f"{path}: it does not fit {model}: {layer} has shape {model.layers[layer].shape}, the file has {shapes}{remedy}"
    )


# --- modules of several layers


def by_modules(lora: DecodedLora) -> DecodedLora:
    """The same changes with the layers that kohya-style files hold in one module (Flux: q, k and v) joined, under the
    names of the modules. A rank is then that of the module in the file."""
    changes = join_modules(lora.layers, lora.model, lora.model.shapes)
    specs = dict(lora.model.layers)
    for name in changes:
        parts = lora.model.kohya_parts(name)
        if parts:
            specs[name] = _module_spec(name, parts, lora.model.layers)
    return replace(lora, layers=changes, model=replace(lora.model, layers=specs))


def _module_spec(name: str, parts: Mapping[str, Place], layers: Mapping[str, LayerSpec]) -> LayerSpec:
    layer, part = next(iter(parts.items()))
    rows, *rest = layers[layer].shape
    return replace(layers[layer], name=name, shape=(rows // part.sizes[part.index] * sum(part.sizes), *rest))


def by_layers(layers: Mapping[str, LayerTensors], model: ModelLayers) -> dict[str, LayerTensors]:
    """The changes of `by_modules`, by layer again."""
    modules = {name: tensors for name, tensors in layers.items() if model.kohya_parts(name)}
    changes = {name: tensors for name, tensors in layers.items() if name not in modules}
    return changes | split_modules(modules, {name: model.kohya_parts(name) for name in modules})


# --- formats


def find_format(name: str) -> Format:
    """The format of this kind. Raises LorasmithError for an unknown one."""
    kinds = registered(Format)
    if name not in kinds:
        hint = did_you_mean(name, kinds)
        raise LorasmithError(
            f"--to {name}: unknown format; the formats are {', '.join(sorted(kinds))}. {hint}".rstrip()
        )
    kind: Any = kinds[name]
    return kind()


def encode_as(lora: DecodedLora, layers: Mapping[str, LayerTensors], to: str) -> Encoded:
    """Layers as a format writes them; `to` is the format's name."""
    return find_format(to).encode(layers, lora.model, lora.model.shapes)


def format_of(lora: DecodedLora) -> str:
    """The format to write a changed file in: that of the file, as far as there is one."""
    return "peft" if lora.spelling in ("peft", "diffusers", "diffusers before 0.22") else "kohya"


# --- writing


def save(
    output: OutputFile,
    lora: DecodedLora,
    encoded: Encoded,
    note: str,
    extra: Mapping[str, Tensor] | None = None,
    form: Format | None = None,
) -> None:
    """Write a file made from `lora`, with its metadata and a note of what was done. `extra`: further tensors; `form`:
    the format, if it has a layout of its own."""
    tensors = dict(encoded.tensors)
    tensors.update(extra or {})
    metadata = updated_metadata(lora.metadata, note)
    metadata |= network_metadata(encoded.tensors, lora.metadata, lora.model.kind)
    metadata |= encoded.metadata
    (form or kohya.Kohya()).write(output.path, tensors, metadata, output.dtype or lora.dtype)


def updated_metadata(metadata: Mapping[str, str], note: str) -> dict[str, str]:
    """The metadata that stay true, and a history of what was done to the file: a JSON list of sentences, oldest
    first."""
    # hashes and peft's config describe the old tensors
    updated = {key: value for key, value in metadata.items() if not key.startswith(STALE_PREFIXES)}
    updated[HISTORY_KEY] = json.dumps([*json_list(metadata, HISTORY_KEY), f"{note} (lorasmith {VERSION})"])
    return updated


def network_metadata(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], family: str) -> dict[str, str]:
    """kohya's metadata of rank and kind for changed tensors; empty if the file had none or is not plain LoRA.
    `family`: `sd1`, `flux` and so on."""
    if not any(key.startswith("ss_network") for key in metadata):
        return {}
    # count the ranks and alphas of all layers, in kohya's and in peft's keys
    ranks: Counter[int] = Counter()
    alphas: Counter[float] = Counter()
    for key, tensor in tensors.items():
        tensor_name = key.partition(".")[2]
        if key.startswith(kohya.PREFIXES) and tensor_name not in ("lora_down.weight", "lora_up.weight", "alpha"):
            return {}
        if key.endswith(("lora_down.weight", "lora_A.weight")):
            ranks[tensor.shape[0]] += 1
        elif key.endswith(".alpha"):
            alphas[float(tensor)] += 1
    if not ranks:
        return {}
    # kohya has one rank and one alpha for the whole file; without alphas, alpha is the rank
    rank = ranks.most_common(1)[0][0]
    alpha = alphas.most_common(1)[0][0] if alphas else float(rank)
    return {
        "ss_network_module": network_module("lora", family),
        "ss_network_args": "{}",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
    }


# --- plain LoRA tensors


def rank_counts(layers: Mapping[str, LayerTensors]) -> dict[int, int]:
    """How many layers have which rank."""
    downs = [tensors["lora_down.weight"] for tensors in layers.values() if "lora_down.weight" in tensors]
    return dict(Counter(down.shape[0] for down in downs))


def lora_factors(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """up (out, r), multiplied by the scale, and down (r, n) of plain LoRA tensors, float32."""
    up = tensors["lora_up.weight"].float().flatten(1)
    down = tensors["lora_down.weight"].float().flatten(1)
    return up * (alpha_of(tensors) / down.shape[0]), down


def lora_tensors(up: Tensor, down: Tensor, shape: Sequence[int], scale: float = 1.0) -> LayerTensors:
    """Plain LoRA tensors of a change up @ down of a weight of `shape`, such that alpha / rank is `scale`."""
    rank = down.shape[0]
    kernel_of_one = [1] * len(shape[2:])
    return {
        "lora_down.weight": down.reshape(rank, *shape[1:]).contiguous(),
        "lora_up.weight": (up / scale).reshape(shape[0], rank, *kernel_of_one).contiguous(),
        "alpha": torch.tensor(float(scale * rank)),
    }
