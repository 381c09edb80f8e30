"""A LoRA with fewer ranks, or with no more than it needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorasmith.core.errors import LorasmithError
from lorasmith.files.lora import (
    DecodedLora,
    FileReport,
    OutputFile,
    by_layers,
    by_modules,
    encode_as,
    format_of,
    lora_factors,
    lora_tensors,
    rank_counts,
    read,
    save,
)
from lorasmith.files.lowrank import MatrixSvd, Svd, Truncation, TruncationErrors, svd_of_product
from lorasmith.files.model import ModelLayers
from lorasmith.formats.rewrite import LayerTensors, alpha_of


def resize(
    path: Path,
    truncation: Truncation,
    output: OutputFile,
    *,
    base: str | Path | None = None,
    base_parts: Sequence[str] = (),
) -> FileReport:
    """Write the LoRA at `path` with the ranks of `truncation`; each layer's alpha / rank stays.

    LoHa, LoKr, Tucker LoRA and full differences become LoRA; norms are unchanged. `base` is needed only if the family
    is unknown; `base_parts`: as in `ModelLayers.from_base`. Raises LorasmithError for DoRA, OFT and others whose change
    depends on the base weights.
    """
    output.check()
    original = read(path, None if base is None else ModelLayers.from_base(base, base_parts))
    # a peft file stays one, all others become kohya's
    form = format_of(original)
    lora = by_modules(original) if form == "kohya" else original

    # norms have no rank and are copied
    svds: dict[str, Svd] = {}
    layers: dict[str, LayerTensors] = {}
    for layer, tensors in lora.layers.items():
        svd = svd_of_change(lora, layer)
        if svd is None:
            layers[layer] = dict(tensors)
        else:
            svds[layer] = svd
    if not svds:
        raise LorasmithError(f"{path}: none of its changes has a rank")

    # the ranks follow from the singular values of all layers, so they are known only now
    ranks = truncation.ranks(svds)
    errors = TruncationErrors()
    for layer, svd in svds.items():
        up, down = errors.truncate(layer, svd, ranks[layer])
        layers[layer] = lora_tensors(up, down, lora.model.layers[layer].shape, _scale_of(lora.layers[layer]))
    notes = list(lora.notes)
    biases = [layer for layer in svds if "diff_b" in lora.layers[layer]]
    if biases:
        notes.append(f"changes of {len(biases)} biases are left out, which LoRA cannot hold, such as of {biases[0]}")

    encoded = encode_as(original, by_layers(layers, original.model), form)
    note = f"resized by {_describe(truncation)}, error {errors.relative_error:.3g}"
    save(output, lora, encoded, note, lora.bundled)
    return FileReport(output.path, len(layers), errors.relative_error, errors.worst, rank_counts(layers), notes)


def svd_of_change(lora: DecodedLora, layer: str) -> Svd | None:
    """The SVD of a layer's change; None for norms. Raises LorasmithError where the change depends on the base
    weights."""
    tensors, spec = lora.layers[layer], lora.model.layers[layer]
    if spec.kind == "norm":
        return None
    plain = lora.plain_lora(layer)
    if plain is not None:
        with lora.explain_shape_errors(layer):
            return svd_of_product(*lora_factors(plain))
    if "diff" in tensors:
        with lora.explain_shape_errors(layer):
            return MatrixSvd(tensors["diff"].float().reshape(spec.shape).flatten(1))
    raise LorasmithError(
        f"{lora.path}: the change of {layer} depends on the weights of the base model, so it has no rank; "
        "first use: lorasmith convert --to portable --rank R --base BASE"
    )


def _scale_of(tensors: LayerTensors) -> float:
    """alpha / rank of LoRA, which the resized file keeps; 1 for other kinds, and for a scale of 0, which cannot be
    divided by."""
    if "lora_down.weight" not in tensors:
        return 1.0
    return alpha_of(tensors) / tensors["lora_down.weight"].shape[0] or 1.0


def _describe(truncation: Truncation) -> str:
    settings = {"rank": truncation.rank, "energy": truncation.energy, "frobenius": truncation.frobenius}
    text = ", ".join(f"{name} {value:g}" for name, value in settings.items() if value is not None)
    return f"{text}, per layer" if truncation.per_layer else text
