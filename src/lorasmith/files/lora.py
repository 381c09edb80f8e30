"""A LoRA file by layers, and writing one that came of others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorasmith.adapters.base import Adapter, kind_of
from lorasmith.core.dtypes import DTYPES
from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.core.file_strength import split_strength
from lorasmith.core.package import VERSION
from lorasmith.core.registry import registered
from lorasmith.files.model import Model
from lorasmith.formats import bundle, diff, kohya, peft, write  # noqa: F401
from lorasmith.formats.base import Encoded, Format
from lorasmith.formats.read import load
from lorasmith.formats.rewrite import LayerTensors, alpha_of

HISTORY = "lorasmith.history"
UNFIT = (RuntimeError, KeyError, IndexError, ValueError)
"""What tensors of wrong shapes raise."""
_STALE = ("sshs_", "lora_adapter_metadata", "format", "modelspec.hash")


@dataclass(frozen=True)
class Use:
    """A LoRA file and its strength: `file.safetensors` or `file.safetensors:0.8`."""

    path: Path
    strength: float = 1.0

    @classmethod
    def read(cls, written: str | Path) -> Use:
        return cls(*split_strength(str(written)))


@dataclass(frozen=True)
class Output:
    """Where and how to write. `dtype` None: as the file that was read."""

    path: Path
    dtype: torch.dtype | None = None
    overwrite: bool = False

    def check(self) -> None:
        """Raise LorasmithError if something is there that must not be replaced."""
        if self.path.exists() and not self.overwrite:
            raise LorasmithError(f"{self.path}: is there already; give --overwrite, or another name with -o")
        if self.path.suffix != ".safetensors":
            raise LorasmithError(f"{self.path}: LoRAs are written as .safetensors; give such a name with -o")


@dataclass(frozen=True)
class Lora:
    """A file's changes by layer, with kohya's tensor names.

    `bundled`: tensors of new words, by their names in the file.
    """

    path: Path
    model: Model
    layers: dict[str, LayerTensors]
    metadata: dict[str, str]
    spelling: str = "kohya"
    dtype: torch.dtype = torch.float32
    bundled: Mapping[str, Tensor] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    """New words in our own form, which no operation on layers carries on."""


@dataclass
class Report:
    """What an operation made. `error`: |new - old| / |old| of all changes, None where nothing was approximated;
    `worst`: the layer with the largest, and it; `ranks`: how many layers have which."""

    file: Path
    layers: int
    error: float | None = None
    worst: tuple[str, float] | None = None
    ranks: dict[int, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        size = sum(f.stat().st_size for f in ([self.file] if self.file.is_file() else self.file.rglob("*.safetensors")))
        worst = None if self.worst is None else {"layer": self.worst[0], "error": self.worst[1]}
        found = {"file": str(self.file), "bytes": size, "layers": self.layers, "error": self.error, "worst": worst}
        return found | {"ranks": {str(r): n for r, n in sorted(self.ranks.items())}, "notes": self.notes}


def dtype_named(name: str | None) -> torch.dtype | None:
    """`fp32`, `fp16`, `bf16`; None stays None."""
    if name is not None and name not in DTYPES:
        raise LorasmithError(f"--dtype {name}: give one of {', '.join(DTYPES)}")
    return None if name is None else DTYPES[name]


def read(path: Path, model: Model | None = None) -> Lora:
    """A LoRA of any spelling, for `model`, or for the published models that its widths tell.

    Raises LorasmithError if the family cannot be told, or if tensors belong to no layer of it or do not fit it.
    """
    file = load(path)
    if model is None:
        if file.family is None:
            raise LorasmithError(f"{path}: for which models it is cannot be told from its shapes; name one with --base")
        model = Model.published(file.family)
    elif file.family not in (None, model.kind) and any(name.startswith("lora_unet_") for name in file.tensors):
        raise LorasmithError(f"{path}: it is for {file.family}, not for {model}")
    layers, strangers = kohya.decode(file.tensors, model.from_kohya)
    if strangers or not layers:
        first = strangers[0] if strangers else "none"
        raise LorasmithError(
            f"{path}: {len(strangers)} of its {len(file.tensors)} tensors belong to no layer of {model}, for example "
            f"{first}; name the base that it was made for with --base"
        )
    for layer, tensors in layers.items():
        _check(path, model, layer, tensors)
    found = Counter(t.dtype for t in file.tensors.values() if t.dim() and t.is_floating_point())
    dtype = found.most_common(1)[0][0] if found else torch.float32
    bundled = {f"bundle_emb.{w}.{p}": t for w, parts in file.embeddings.items() for p, t in parts.items()}
    return Lora(path, model, layers, dict(file.metadata), file.spelling, dtype, bundled, tuple(file.words))


def restore(lora: Lora, layer: str, base: Tensor) -> Adapter:
    """One layer's adapter. Raises LorasmithError if its tensors do not fit the layer."""
    tensors = lora.layers[layer]
    kind = kind_of(tensors)
    assert kind is not None
    try:
        return kind().restore(lora.model.layers[layer], base, tensors).eval()
    except UNFIT:
        raise unfit(lora.path, lora.model, layer, tensors) from None


def unfit(path: Path, model: Model, layer: str, tensors: LayerTensors) -> LorasmithError:
    """The error for tensors that do not fit their layer."""
    shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items() if t.dim())
    return LorasmithError(
        f"{path}: it does not fit {model}: {layer} has shape {model.layers[layer].shape}, the file has {shapes}"
        + ("" if model.source else "; name the base that it was made for with --base")
    )


def as_format(lora: Lora, layers: Mapping[str, LayerTensors], to: str) -> Encoded:
    """Layers as a format writes them; `to` is the format's name."""
    return format_named(to).encode(layers, lora.model, lora.model.shapes)


def format_named(to: str) -> Format:
    kinds = registered(Format)
    if to not in kinds:
        hint = did_you_mean(to, kinds)
        raise LorasmithError(
            f"--to {to}: no format is called so; there are {', '.join(sorted(kinds))}. {hint}".rstrip()
        )
    kind: Any = kinds[to]
    return kind()


def own_format(lora: Lora) -> str:
    """The format that a file has, for what is written in its place."""
    return "peft" if lora.spelling in ("peft", "diffusers", "diffusers before 0.22") else "kohya"


def save(output: Output, lora: Lora, encoded: Encoded, note: str, extra: Mapping[str, Tensor] | None = None) -> None:
    """Write what came of `lora`, with its metadata and a note of what was done."""
    tensors = {**encoded.tensors, **(extra or {})}
    metadata = carried(lora.metadata, note) | facts(encoded.tensors, lora.metadata) | encoded.metadata
    write.write(output.path, tensors, metadata, output.dtype or lora.dtype)


def carried(metadata: Mapping[str, str], *notes: str) -> dict[str, str]:
    """Metadata that stay true, and what was done to the file, as a JSON list of sentences, oldest first."""
    kept = {key: value for key, value in metadata.items() if not key.startswith(_STALE)}
    try:
        past = json.loads(metadata.get(HISTORY, "[]"))
    except ValueError:
        past = []
    return kept | {HISTORY: json.dumps([*past, *(f"{note} (lorasmith {VERSION})" for note in notes)])}


def facts(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """kohya's metadata of rank and kind, as they are now; only where the file had such."""
    if not any(key.startswith("ss_network") for key in metadata):
        return {}
    downs = [t for name, t in tensors.items() if name.endswith(("lora_down.weight", "lora_A.weight"))]
    tensor_names = {name.partition(".")[2] for name in tensors if name.startswith(kohya.PREFIXES)}
    if not downs or not tensor_names <= {"lora_down.weight", "lora_up.weight", "alpha"}:
        return {}
    rank = Counter(t.shape[0] for t in downs).most_common(1)[0][0]
    alphas = Counter(float(t) for name, t in tensors.items() if name.endswith(".alpha"))
    alpha = alphas.most_common(1)[0][0] if alphas else float(rank)
    module = {"ss_network_module": "networks.lora", "ss_network_args": "{}"}
    return {**module, "ss_network_dim": str(rank), "ss_network_alpha": f"{alpha:g}"}


def ranks_of(layers: Mapping[str, LayerTensors]) -> dict[int, int]:
    """How many layers have which rank."""
    return dict(Counter(w["lora_down.weight"].shape[0] for w in layers.values() if "lora_down.weight" in w))


def product_of(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """up (out, r), the scale in it, and down (r, n) of plain LoRA tensors, float32."""
    up, down = tensors["lora_up.weight"].float().flatten(1), tensors["lora_down.weight"].float().flatten(1)
    return up * (alpha_of(tensors) / down.shape[0]), down


def lora_tensors(up: Tensor, down: Tensor, shape: Sequence[int], scale: float = 1.0) -> LayerTensors:
    """Plain LoRA tensors of a change up @ down, such that alpha / rank is `scale`."""
    rank = down.shape[0]
    ones = [1] * len(shape[2:])
    return {
        "lora_down.weight": down.reshape(rank, *shape[1:]).contiguous(),
        "lora_up.weight": (up / scale).reshape(shape[0], rank, *ones).contiguous(),
        "alpha": torch.tensor(float(scale * rank)),
    }


def _check(path: Path, model: Model, layer: str, tensors: LayerTensors) -> None:
    if kind_of(tensors) is None:
        raise LorasmithError(f"{path}: {layer} has tensors of no known adapter kind: {', '.join(sorted(tensors))}")
    if tensors.keys() & {"lora_up.weight", "lora_down.weight"}:
        if not {"lora_up.weight", "lora_down.weight"} <= tensors.keys():
            raise LorasmithError(f"{path}: {layer} has only one of lora_up and lora_down; the file is damaged")
        shape, up, down = model.layers[layer].shape, tensors["lora_up.weight"], tensors["lora_down.weight"]
        rank, inner = down.shape[0], down[0].numel()
        fits = up.numel() == shape[0] * rank and inner == (
            shape[1] if "lora_mid.weight" in tensors else torch.Size(shape[1:]).numel()
        )
        if len(shape) < 2 or not fits:
            raise unfit(path, model, layer, tensors)
