"""A LoRA in another format: exactly, or as the best LoRA of a rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.files.lora import (
    UNFIT,
    Lora,
    Output,
    Report,
    as_format,
    format_named,
    lora_tensors,
    ranks_of,
    read,
    restore,
    save,
    unfit,
)
from lorasmith.files.lowrank import Cut, Dense, Loss
from lorasmith.files.model import Model, Weights
from lorasmith.formats import embeddings, token_embeddings
from lorasmith.formats.consumers import verdicts
from lorasmith.formats.read import load
from lorasmith.formats.rewrite import LayerTensors, plain, product
from lorasmith.formats.survey import Survey
from lorasmith.formats.token_embeddings import Words as WordVectors

CARRYING = ("kohya", "lycoris", "diff", "bundle")
"""Formats whose readers know bundled new words."""


def convert(
    path: Path,
    to: str,
    output: Output,
    *,
    base: str | Path | None = None,
    rank: int | None = None,
    words: Sequence[Path] = (),
) -> Report:
    """Write the LoRA at `path` in the format `to`.

    `base`: the model that it is for, needed where its family cannot be told or where the change depends on the weights;
    `rank`: replace what has no exact form as LoRA by the best LoRA of this rank; `words`: embedding files that a bundle
    is to carry, beside the words that the file has. Raises LorasmithError if the format
    cannot hold the file.
    """
    form = format_named(to)
    output.check()
    lora = read(path, None if base is None else Model.of(base))
    loss, notes = Loss(), []
    with ExitStack() as stack:
        weights = stack.enter_context(Weights(lora.model)) if base is not None else None
        layers = _differences(lora, weights, output) if to == "diff" else lora.layers
        if rank is not None and to != "diff":
            layers = _approximated(lora, weights, Cut(rank=rank), to, loss, notes)
    try:
        encoded = as_format(replace(lora, layers=layers), layers, to)
    except LorasmithError as error:
        raise LorasmithError(f"{path}: {error}{_way_out(to, rank)}") from None
    except UNFIT:
        raise LorasmithError(f"{path}: some tensors do not fit the layers of {lora.model}") from None
    extra = dict(lora.bundled) if to in CARRYING else {}
    if lora.bundled and not extra:
        notes.append(f"{len(lora.bundled)} tensors of new words are left out: {to} files cannot carry them")
    own = _own_words(path, words)
    if found := form.words(token_embeddings.plain(own)):
        extra |= found
        kept = {key: value for key, value in lora.metadata.items() if key != token_embeddings.KEY}
        lora = replace(lora, metadata=kept | token_embeddings.renamed(kept, own))
        notes += [note for note in (token_embeddings.apart(own),) if note]
    elif words or (to == "bundle" and not extra):
        raise LorasmithError(_no_bundle(path, to, words))
    elif lora.words:
        notes.append(
            f"its new words ({', '.join(lora.words)}) are not in the new file; for user interfaces they are in the "
            "embeddings folder of the run"
        )
    approximated = f", the best LoRA of rank {rank} where needed, error {loss.error:.3g}" if loss.worst else ""
    save(output, lora, encoded, f"converted from {lora.spelling} names to {to}{approximated}", extra)
    if found:
        answers = verdicts(Survey(load(output.path)))
        notes += [f"{reader}: {why}" for reader, answer in answers.items() for why in answer["remarks"]]
    error = loss.error if loss.worst else None
    return Report(output.path, len(layers), error, loss.worst, ranks_of(layers), notes)


def _own_words(path: Path, files: Sequence[Path]) -> WordVectors:
    """The words that are in a file in our own form, or in the exact file beside it, and those of embedding files."""
    found = token_embeddings.beside(load(path))
    for file in files:
        word, vectors = embeddings.load(file)
        found[word] = token_embeddings.deep(vectors, tuple(vectors))
    return found


def _no_bundle(path: Path, to: str, files: Sequence[Path]) -> str:
    if files:
        return f"--word: {to} files have no place for new words; bundle files do (--to bundle)"
    return f"{path}: there are no new words to bundle, in it or in an exact file beside it; name embeddings with --word"


def _way_out(to: str, rank: int | None) -> str:
    return "" if rank is not None or to == "diff" else "; or give --rank R for the best LoRA of that rank"


def _differences(lora: Lora, weights: Weights | None, output: Output) -> dict[str, LayerTensors]:
    """Each change as large as its layer, in the dtype that it is written in."""
    dtype = output.dtype or lora.dtype
    return {layer: {w: t.to(dtype) for w, t in tensors.items()} for layer, tensors in _dense(lora, weights)}


def _dense(lora: Lora, weights: Weights | None) -> Iterator[tuple[str, LayerTensors]]:
    for layer in lora.layers:
        yield layer, full(lora, layer, weights)


def full(lora: Lora, layer: str, weights: Weights | None) -> LayerTensors:
    """A layer's change as `diff` (norms: `w_norm`) tensors, float32; the weight is read only where it is needed."""
    tensors, spec = lora.layers[layer], lora.model.layers[layer]
    try:
        if (found := product(tensors, spec.shape)) is not None:
            return found
        if weights is None:
            raise LorasmithError(
                f"{lora.path}: the change of {layer} depends on the weights of the base model; name it with --base"
            )
        base = weights.read(layer)
        adapter = restore(lora, layer, base)
        bias, change = adapter.bias_delta(), adapter.delta(base).detach()
    except UNFIT:
        raise unfit(lora.path, lora.model, layer, tensors) from None
    names = ("w_norm", "b_norm") if spec.kind == "norm" else ("diff", "diff_b")
    return {names[0]: change} | ({} if bias is None else {names[1]: bias.detach()})


def _approximated(
    lora: Lora, weights: Weights | None, cut: Cut, to: str, loss: Loss, notes: list[str]
) -> dict[str, LayerTensors]:
    """The layers, with the best LoRA in place of what has no exact form as one; norms and biases are left out."""
    layers: dict[str, LayerTensors] = {}
    dropped: list[str] = []
    for layer, tensors in lora.layers.items():
        spec = lora.model.layers[layer]
        if _exact(lora, layer, to):
            layers[layer] = tensors
            continue
        change = full(lora, layer, weights)
        left_out = sum(_square(change[w]) for w in ("w_norm", "b_norm", "diff_b") if w in change)
        if left_out:
            dropped.append(layer)
        if spec.kind == "norm" or "diff" not in change:
            continue
        spectrum = Dense(change["diff"].reshape(spec.shape).float().flatten(1))
        up, down = spectrum.cut(cut.of(spectrum))
        loss.add(layer, spectrum.total, spectrum.lost(down.shape[0]))
        layers[layer] = lora_tensors(up, down, spec.shape)
    if dropped:
        notes.append(
            f"changes of norms or biases are left out, which LoRA cannot say: {len(dropped)}, such as {dropped[0]}"
        )
    if not layers:
        raise LorasmithError(f"{lora.path}: nothing of it can be a LoRA; use --to diff")
    return layers


def _exact(lora: Lora, layer: str, to: str) -> bool:
    if plain(lora.layers[layer], lora.model.layers[layer].shape) is not None:
        return True
    if to != "peft":
        return False
    try:
        as_format(lora, {layer: lora.layers[layer]}, to)
    except LorasmithError:
        return False
    return True


def _square(tensor: Tensor) -> float:
    return float(tensor.float().square().sum())
