"""Several LoRAs as one: the weighted sum of their changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from lorasmith.core.errors import LorasmithError
from lorasmith.files.lora import (
    UNFIT,
    Lora,
    Output,
    Report,
    Use,
    as_format,
    lora_tensors,
    product_of,
    ranks_of,
    read,
    save,
    unfit,
)
from lorasmith.files.lowrank import Cut, Dense, Loss
from lorasmith.files.model import Model
from lorasmith.files.resize import spectrum_of
from lorasmith.formats.rewrite import LayerTensors, plain, product

BIASED = ("diff_b", "w_norm", "b_norm")


def combine(uses: Sequence[Use], output: Output, *, base: str | Path | None = None, rank: int | None = None) -> Report:
    """Write the sum of `strength * change` of several files, exactly, with the ranks of all together; or with `rank`
    as the best LoRA of that rank.

    Raises LorasmithError for files of different families, and for kinds whose change depends on the weights.
    """
    output.check()
    if len(uses) < 2:
        raise LorasmithError("combine needs two files or more, each with its strength: a.safetensors:0.7")
    cut = None if rank is None else Cut(rank=rank)
    model = None if base is None else Model.of(base)
    loras = [read(use.path, model) for use in uses]
    kinds = {str(lora.path): lora.model.kind for lora in loras}
    if len(set(kinds.values())) > 1:
        said = ", ".join(f"{path} is for {kind}" for path, kind in kinds.items())
        raise LorasmithError(f"files of different families cannot be combined: {said}")
    loss = Loss()
    layers: dict[str, LayerTensors] = {}
    for layer in dict.fromkeys(name for lora in loras for name in lora.layers):
        parts = [(lora, use.strength) for lora, use in zip(loras, uses, strict=True) if layer in lora.layers]
        tensors = _sum(layer, parts)
        layers[layer] = tensors if cut is None else _cut(tensors, layer, loras[0].model, cut, loss)
    bundled = {name: t for lora in reversed(loras) for name, t in lora.bundled.items()}
    dtype = torch.float32 if len({lora.dtype for lora in loras}) > 1 else loras[0].dtype
    whole = replace(loras[0], layers=layers, dtype=dtype, metadata=_metadata(loras))
    note = "combined from " + ", ".join(f"{use.path.name}:{use.strength:g}" for use in uses)
    note += "" if cut is None else f", the best LoRA of rank {rank}, error {loss.error:.3g}"
    save(output, whole, as_format(whole, layers, "kohya"), note, bundled)
    return Report(output.path, len(layers), loss.error if cut else None, loss.worst, ranks_of(layers))


def _sum(layer: str, parts: Sequence[tuple[Lora, float]]) -> LayerTensors:
    """LoRA tensors of all ranks side by side; `diff` tensors where one of the changes is of full rank."""
    shape = parts[0][0].model.layers[layer].shape
    exact = [_plain(lora, layer) for lora, _ in parts]
    if all(tensors is not None for tensors in exact):
        pairs = [product_of(tensors) for tensors in exact if tensors is not None]
        up = torch.cat([s * up for (up, _), (_, s) in zip(pairs, parts, strict=True)], 1)
        return lora_tensors(up, torch.cat([down for _, down in pairs]), shape)
    found: LayerTensors = {}
    for lora, strength in parts:
        change = product(lora.layers[layer], shape)
        if change is None:
            raise LorasmithError(
                f"{lora.path}: the change of {layer} depends on the weights of the base model, so that it cannot be "
                "added up; first use: lorasmith convert --to diff --base BASE"
            )
        for name, tensor in change.items():
            found[name] = found.get(name, 0) + strength * tensor.float().reshape(shape if name == "diff" else (-1,))
    return found


def _plain(lora: Lora, layer: str) -> LayerTensors | None:
    tensors, shape = lora.layers[layer], lora.model.layers[layer].shape
    try:
        return plain(tensors, shape)
    except UNFIT:
        raise unfit(lora.path, lora.model, layer, tensors) from None


def _cut(tensors: LayerTensors, layer: str, model: Model, cut: Cut, loss: Loss) -> LayerTensors:
    if tensors.keys() & set(BIASED):
        return tensors
    spectrum = Dense(tensors["diff"].flatten(1)) if "diff" in tensors else spectrum_of(tensors)
    up, down = spectrum.cut(cut.of(spectrum))
    loss.add(layer, spectrum.total, spectrum.lost(down.shape[0]))
    return lora_tensors(up, down, model.layers[layer].shape)


def _metadata(loras: Sequence[Lora]) -> dict[str, str]:
    """The first file's, with all trigger words; how the others were made is in their own files."""
    found = dict(loras[0].metadata)
    said = [p.strip() for lora in loras for p in lora.metadata.get("modelspec.trigger_phrase", "").split(",")]
    if words := list(dict.fromkeys(p for p in said if p)):
        found["modelspec.trigger_phrase"] = ", ".join(words)
    found.pop("lorasmith.config", None)
    return found
