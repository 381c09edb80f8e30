"""A LoRA with fewer ranks, or no more than it needs."""

from __future__ import annotations

from pathlib import Path

from lorasmith.core.errors import LorasmithError
from lorasmith.files.lora import (
    UNFIT,
    Lora,
    Output,
    Report,
    as_format,
    lora_tensors,
    own_format,
    product_of,
    ranks_of,
    read,
    save,
    unfit,
)
from lorasmith.files.lowrank import Cut, Dense, Loss, Product, Spectrum
from lorasmith.files.model import Model
from lorasmith.formats.rewrite import LayerTensors, alpha_of, plain


def resize(path: Path, cut: Cut, output: Output, *, base: str | Path | None = None) -> Report:
    """Write the LoRA at `path` with the ranks that `cut` leaves; each layer's alpha / rank stays.

    LoHa, LoKr, Tucker LoRA and full differences become LoRA; norms stay as they are. `base` is needed only if the
    family cannot be told. Raises LorasmithError for DoRA, OFT and others whose change depends on the weights.
    """
    output.check()
    lora = read(path, None if base is None else Model.of(base))
    spectra = {layer: s for layer in lora.layers if (s := spectrum(lora, layer)) is not None}
    if not spectra:
        raise LorasmithError(f"{path}: nothing in it has a rank")
    ranks = cut.ranks(spectra)
    layers, loss = {k: dict(tensors) for k, tensors in lora.layers.items() if k not in spectra}, Loss()
    for layer, found in spectra.items():
        up, down = found.cut(ranks[layer])
        loss.add(layer, found.total, found.lost(down.shape[0]))
        layers[layer] = lora_tensors(up, down, lora.model.layers[layer].shape, _scale(lora.layers[layer]))
    notes = []
    if biases := [layer for layer in spectra if "diff_b" in lora.layers[layer]]:
        notes.append(f"changes of {len(biases)} biases are left out, which LoRA cannot say, such as of {biases[0]}")
    encoded = as_format(lora, layers, own_format(lora))
    save(output, lora, encoded, f"resized by {_said(cut)}, error {loss.error:.3g}", lora.bundled)
    return Report(output.path, len(layers), loss.error, loss.worst, ranks_of(layers), notes)


def spectrum(lora: Lora, layer: str) -> Spectrum | None:
    """The singular values of a layer's change; None for norms. Raises LorasmithError where the weights are needed."""
    tensors, spec = lora.layers[layer], lora.model.layers[layer]
    if spec.kind == "norm":
        return None
    try:
        exact = plain(tensors, spec.shape)
        if exact is not None:
            return spectrum_of(exact)
        if "diff" in tensors:
            return Dense(tensors["diff"].float().reshape(spec.shape).flatten(1))
    except UNFIT:
        raise unfit(lora.path, lora.model, layer, tensors) from None
    raise LorasmithError(
        f"{lora.path}: the change of {layer} depends on the weights of the base model, so it has no ranks of its own; "
        "first use: lorasmith convert --to portable --rank R --base BASE"
    )


def spectrum_of(tensors: LayerTensors) -> Spectrum:
    """Of plain LoRA tensors; through the product where that is the smaller."""
    up, down = product_of(tensors)
    return Product(up, down) if up.shape[1] < min(up.shape[0], down.shape[1]) else Dense(up @ down)


def _scale(tensors: LayerTensors) -> float:
    """alpha / rank of LoRA, which the resized file keeps; 1 for other kinds and where nothing would be left."""
    if "lora_down.weight" not in tensors:
        return 1.0
    return alpha_of(tensors) / tensors["lora_down.weight"].shape[0] or 1.0


def _said(cut: Cut) -> str:
    parts = {"rank": cut.rank, "energy": cut.energy, "frobenius": cut.frobenius}
    said = ", ".join(f"{name} {value:g}" for name, value in parts.items() if value is not None)
    return f"{said}, per layer" if cut.per_layer else said
