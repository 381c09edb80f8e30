"""Several LoRAs as one: the weighted sum of their changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.files.lora import (
    DecodedLora,
    FileReport,
    LoraInput,
    OutputFile,
    by_layers,
    by_modules,
    encode_as,
    lora_factors,
    lora_tensors,
    notes_of,
    rank_counts,
    read,
    save,
)
from lorasmith.files.lowrank import MatrixSvd, Truncation, TruncationErrors, svd_of_product
from lorasmith.files.model import ModelLayers
from lorasmith.formats.rewrite import LayerTensors, to_diff


def combine(
    inputs: Sequence[LoraInput],
    output: OutputFile,
    *,
    base: str | Path | None = None,
    base_parts: Sequence[str] = (),
    rank: int | None = None,
) -> FileReport:
    """Write the sum of `strength * change` of several files: exactly, with the sum of their ranks, or with `rank` as
    the best LoRA of that rank.

    Raises LorasmithError for files of different families, and for kinds whose change depends on the base weights.
    """
    output.check()
    if len(inputs) < 2:
        raise LorasmithError("combine needs two or more files, each with its strength: a.safetensors:0.7")
    model = None if base is None else ModelLayers.from_base(base, base_parts)
    loras = [read(lora_input.path, model) for lora_input in inputs]
    _check_same_family(loras)
    errors = TruncationErrors()
    strengths = [lora_input.strength for lora_input in inputs]
    layers = _combine_layers(loras, strengths)
    if rank is not None:
        layers = _truncate_layers(replace(loras[0], layers=layers), Truncation(rank=rank), errors)

    bundled = _bundled_tokens(loras)
    # files of different dtypes are combined without a loss
    dtypes = {lora.dtype for lora in loras}
    dtype = loras[0].dtype if len(dtypes) == 1 else torch.float32
    combined = replace(loras[0], layers=layers, dtype=dtype, metadata=_combined_metadata(loras))
    note = "combined from " + ", ".join(f"{i.path.name}:{i.strength:g}" for i in inputs)
    if rank is not None:
        note += f", the best LoRA of rank {rank}, error {errors.relative_error:.3g}"
    save(output, combined, encode_as(combined, layers, "kohya"), note, bundled)
    error = errors.relative_error if rank is not None else None
    return FileReport(output.path, len(layers), error, errors.worst, rank_counts(layers), notes_of(loras))


def _bundled_tokens(loras: Sequence[DecodedLora]) -> dict[str, Tensor]:
    """Bundled tokens of all files; where two files have the same token, the first file's counts."""
    bundled: dict[str, Tensor] = {}
    for lora in reversed(loras):
        bundled.update(lora.bundled)
    return bundled


def _check_same_family(loras: Sequence[DecodedLora]) -> None:
    kind_by_path = {str(lora.path): lora.model.kind for lora in loras}
    if len(set(kind_by_path.values())) > 1:
        families = ", ".join(f"{path} is for {kind}" for path, kind in kind_by_path.items())
        raise LorasmithError(f"files of different families cannot be combined: {families}")


def _combine_layers(loras: Sequence[DecodedLora], strengths: Sequence[float]) -> dict[str, LayerTensors]:
    """The sum of the changes, layer by layer."""
    layers: dict[str, LayerTensors] = {}
    layer_names = dict.fromkeys(name for lora in loras for name in lora.layers)
    for layer in layer_names:
        # a file that does not change the layer adds nothing
        parts: list[tuple[DecodedLora, float]] = []
        for lora, strength in zip(loras, strengths, strict=True):
            if layer in lora.layers:
                parts.append((lora, strength))
        layers[layer] = _weighted_sum(layer, parts)
    return layers


def _truncate_layers(total: DecodedLora, truncation: Truncation, errors: TruncationErrors) -> dict[str, LayerTensors]:
    """The best LoRA of each change; the errors are added to `errors`."""
    joint = by_modules(total)
    truncated: dict[str, LayerTensors] = {}
    for layer, tensors in joint.layers.items():
        truncated[layer] = _truncate(tensors, layer, joint.model, truncation, errors)
    return by_layers(truncated, total.model)


def _weighted_sum(layer: str, parts: Sequence[tuple[DecodedLora, float]]) -> LayerTensors:
    """The sum of one layer's changes: LoRA factors of all ranks side by side, or `diff` tensors where one of the
    changes is of full rank. `parts`: files that change the layer, with their strengths."""
    shape = parts[0][0].model.layers[layer].shape

    # products can be stacked: the sum of up @ down is [up, up ...] @ [down; down ...]
    ups: list[Tensor] = []
    downs: list[Tensor] = []
    for lora, strength in parts:
        plain = lora.plain_lora(layer)
        if plain is not None:
            up, down = lora_factors(plain)
            ups.append(strength * up)
            downs.append(down)
    if len(ups) == len(parts):
        return lora_tensors(torch.cat(ups, 1), torch.cat(downs), shape)

    # otherwise the sum is of full rank, over the weight and the bias
    total: LayerTensors = {}
    for lora, strength in parts:
        difference = to_diff(lora.layers[layer], shape)
        if difference is None:
            raise LorasmithError(
                f"{lora.path}: the change of {layer} depends on the weights of the base model, so that it cannot be "
                "added up; first use: lorasmith convert --to diff --base BASE"
            )
        for name, tensor in difference.items():
            target_shape = shape if name == "diff" else (-1,)
            total[name] = total.get(name, 0) + strength * tensor.float().reshape(target_shape)
    return total


def _truncate(
    tensors: LayerTensors, layer: str, model: ModelLayers, truncation: Truncation, errors: TruncationErrors
) -> LayerTensors:
    """The best LoRA of a layer's change; changes of norms and biases stay exact."""
    if tensors.keys() & {"diff_b", "w_norm", "b_norm"}:
        return tensors
    svd = MatrixSvd(tensors["diff"].flatten(1)) if "diff" in tensors else svd_of_product(*lora_factors(tensors))
    up, down = errors.truncate(layer, svd, truncation.rank_for(svd))
    return lora_tensors(up, down, model.layers[layer].shape)


def _combined_metadata(loras: Sequence[DecodedLora]) -> dict[str, str]:
    """The first file's metadata, with all trigger words. How the others were made is in their own files."""
    metadata = dict(loras[0].metadata)
    trigger_words: list[str] = []
    for lora in loras:
        for part in lora.metadata.get("modelspec.trigger_phrase", "").split(","):
            if part.strip():
                trigger_words.append(part.strip())
    if trigger_words:
        metadata["modelspec.trigger_phrase"] = ", ".join(dict.fromkeys(trigger_words))
    metadata.pop("lorasmith.config", None)
    return metadata
