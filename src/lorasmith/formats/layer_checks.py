"""Checks of a LoRA file's tensors before anything is computed with them, layer by layer, in kohya's spelling.

Files come from everywhere: what makes no change is left out with a note, what contradicts itself is an error, and what
remains can be computed with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError

SCALARS = ("alpha", "scalar", "on_input")
"""Tensor names of single numbers."""
MATRIX_PREFIXES = ("lora_", "hada_", "lokr_", "a1.", "a2.", "b1.", "b2.")
"""Starts of the names of tensors with two axes or more."""
FACTOR_PAIRS = (
    ("lora_up.weight", "lora_down.weight"),
    ("hada_w1_a", "hada_w1_b"),
    ("hada_w2_a", "hada_w2_b"),
    ("lokr_w1_a", "lokr_w1_b"),
    ("lokr_w2_a", "lokr_w2_b"),
)
"""Tensor names of two factors of one product, which have the rank in common."""
CORES = {"hada_w1_a": "hada_t1", "hada_w2_a": "hada_t2", "lokr_w2_a": "lokr_t2"}
"""Tucker cores, with which the first factor has its rank in front."""
SCALED_FACTORS = ("lora_up.weight", "hada_w1_a", "lokr_w1", "lokr_w1_a", "b1.weight")
"""The factor that takes up LyCORIS' `scalar`, by kind."""


@dataclass(frozen=True)
class CheckedLayers:
    """Tensors that can be computed with, in the order of the file, and what was done to make them so."""

    tensors: dict[str, Tensor]
    notes: list[str]
    lone_alphas: int
    """Layers that had an alpha and nothing else."""
    scalars: int
    """Layers whose `scalar` was other than 1."""


def check_layers(tensors: Mapping[str, Tensor]) -> CheckedLayers:
    """The tensors without those of layers that change nothing, with every `scalar` multiplied in. Raises
    LorasmithError for a layer that contradicts itself."""
    layers, checked = _group(tensors)
    lonely: list[str] = []
    empty: list[str] = []
    scalars = 0
    for flat_name, layer in layers.items():
        if layer.keys() <= set(SCALARS):
            lonely.append(flat_name)
        elif any(not tensor.numel() for tensor in layer.values()):
            empty.append(flat_name)
        else:
            _check_layer(flat_name, layer)
            scalars += "scalar" in layer and float(layer["scalar"]) != 1
            checked |= {f"{flat_name}.{name}": tensor for name, tensor in _normalized(layer).items()}

    notes: list[str] = []
    if lonely:
        notes.append(f"{_count(lonely, 'an alpha and nothing else')}; left out, as other programs do")
    if empty:
        notes.append(f"{_count(empty, 'rank 0, which is no change')}; left out")
    # programs that ask keys one after the other answer by their order
    in_order = {key: checked[key] for key in tensors if key in checked}
    return CheckedLayers(in_order, notes, len(lonely), scalars)


def _group(tensors: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Tensors by flat layer name and tensor name; and those of no layer, by key."""
    layers: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        flat_name, dot, tensor_name = key.partition(".")
        if dot and flat_name.startswith("lora_"):
            layers.setdefault(flat_name, {})[tensor_name] = tensor
        else:
            others[key] = tensor
    return layers, others


def _count(names: list[str], what: str) -> str:
    noun = "layer has" if len(names) == 1 else "layers have"
    return f"{len(names)} {noun} {what}, such as {names[0]}"


def _check_layer(flat_name: str, layer: Mapping[str, Tensor]) -> None:
    """Raise LorasmithError for tensors that are no numbers of a LoRA, or of which one contradicts another."""
    for name, tensor in layer.items():
        _check_tensor(f"{flat_name}.{name}", name, tensor)
    for first, second in FACTOR_PAIRS:
        if first in layer and second in layer:
            _check_product(flat_name, layer, first, second)
        elif first in layer or second in layer:
            present = first if first in layer else second
            raise LorasmithError(
                f"{flat_name} has only one of {first} and {second}, which is {present}; the file is damaged, or "
                "another program left a part of it out"
            )


def _check_tensor(key: str, name: str, tensor: Tensor) -> None:
    """Raise LorasmithError for a tensor of a shape or dtype that its name does not allow."""
    if name in SCALARS:
        if tensor.numel() != 1:
            raise LorasmithError(f"{key} must be one number; it has shape {tuple(tensor.shape)}")
        return
    if not tensor.is_floating_point():
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise LorasmithError(f"{key} is {dtype}; quantized and complex tensors are not read, only floating-point ones")
    if name.startswith(MATRIX_PREFIXES) and tensor.dim() < 2:
        raise LorasmithError(f"{key} must be a matrix or a kernel; it has shape {tuple(tensor.shape)}")


def _check_product(flat_name: str, layer: Mapping[str, Tensor], first: str, second: str) -> None:
    """Raise LorasmithError for two factors without a common rank."""
    a, b = layer[first], layer[second]
    # with a Tucker core the rank is in front in both factors
    rank_axis = 0 if CORES.get(first) in layer else 1
    if a.shape[rank_axis] != b.shape[0]:
        raise LorasmithError(
            f"{flat_name}: {first} {tuple(a.shape)} and {second} {tuple(b.shape)} cannot be multiplied, since "
            "their ranks differ; the file is damaged"
        )


def _normalized(layer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Numbers without axes, and LyCORIS' `scalar`, a trained factor of the change, in one of the factors."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in layer.items():
        tensors[name] = tensor.reshape(()) if name in SCALARS else tensor
    scalar = tensors.pop("scalar", None)
    if scalar is None or float(scalar) == 1:
        return tensors
    names = [name for name in SCALED_FACTORS if name in tensors]
    # GLoRA is a sum of two products
    if "b1.weight" in names:
        names.append("a1.weight")
    if not names:
        raise LorasmithError(f"a scalar beside {', '.join(sorted(tensors))} is not known")
    for name in names:
        tensors[name] = (tensors[name].float() * float(scalar)).to(_exact_dtype(tensors[name]))
    return tensors


def _exact_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of a rescaled factor: its own, except for fp8, which would round it away."""
    return tensor.dtype if tensor.dtype.itemsize > 1 else torch.float16
