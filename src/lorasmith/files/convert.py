"""A LoRA in another format: exactly, or as the best LoRA of a rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.files.base_marker import mark_base
from lorasmith.files.lora import (
    SHAPE_ERRORS,
    DecodedLora,
    FileReport,
    OutputFile,
    encode_as,
    find_format,
    lora_tensors,
    rank_counts,
    read,
    save,
)
from lorasmith.files.lowrank import MatrixSvd, Truncation, TruncationErrors
from lorasmith.files.model import BaseWeights, ModelLayers
from lorasmith.formats import embeddings, token_embeddings
from lorasmith.formats.base import Encoded
from lorasmith.formats.consumers import reader_support
from lorasmith.formats.read import load, load_token_embeddings
from lorasmith.formats.rewrite import LayerTensors, to_diff, to_diff_with_base
from lorasmith.formats.survey import Survey
from lorasmith.formats.token_embeddings import TokenEmbeddings

FORMATS_WITH_BUNDLES = ("kohya", "lycoris", "diff", "bundle")
"""Formats whose readers know bundled new tokens."""

MARKED_FORMATS = ("kohya", "portable", "diff")
"""Formats that InvokeAI reads."""


def convert(
    path: Path,
    to: str,
    output: OutputFile,
    *,
    base: str | Path | None = None,
    base_parts: Sequence[str] = (),
    rank: int | None = None,
    token_files: Sequence[Path] = (),
) -> FileReport:
    """Write the LoRA at `path` in the format `to`.

    `base`: the model that it is for, needed where its family is unknown or where the change depends on the base
    weights; `base_parts`: as in `ModelLayers.from_base`; `rank`: replace what has no exact form as LoRA by the best
    LoRA of this rank; `token_files`: embedding files to add to a bundle, beside the new tokens of the file. Raises
    LorasmithError if the format cannot hold the file.
    """
    target_format = find_format(to)
    output.check(target_format.suffix)
    lora = read(path, None if base is None else ModelLayers.from_base(base, base_parts))
    errors = TruncationErrors()
    notes = list(lora.notes)

    # the changes, in a form that the target format can hold
    with BaseWeights(lora.model) if base is not None else nullcontext() as weights:
        layers = _representable_layers(lora, weights, to, rank, output, errors, notes)
    encoded = _mark_base(_encode(lora, layers, to, rank), lora, to, notes)
    # tokens that are bundled in the file are copied; those in Lorasmith's own format are bundled anew
    copied = dict(lora.bundled) if to in FORMATS_WITH_BUNDLES else {}
    tokens = _load_tokens(path, token_files)
    token_tensors = target_format.encode_layerwise_tokens(tokens)
    if token_tensors:
        lora = replace(lora, metadata=_bundle_metadata(lora.metadata, tokens))
    elif token_files:
        raise LorasmithError(f"--word: {to} files cannot hold new tokens; bundle files can (--to bundle)")
    elif to == "bundle" and not copied:
        raise LorasmithError(
            f"{path}: there are no new tokens to bundle, neither in it nor in an exact file beside it; add embedding "
            "files with --word"
        )
    averaged = bool(token_tensors) and not target_format.layerwise
    notes += _token_notes(lora, to, tokens, bool(copied), bool(token_tensors), averaged)

    # the file, with what was done to it
    history = f"converted from {lora.spelling} names to {to}"
    if errors.worst:
        history += f", the best LoRA of rank {rank} where needed, error {errors.relative_error:.3g}"
    save(output, lora, encoded, history, copied | token_tensors, target_format)
    if averaged:
        notes += _reader_remarks(output.path)
    report = FileReport(output.path, len(layers), ranks=rank_counts(layers), notes=notes)
    # without an approximation there is no error to report, not even one of 0
    if errors.worst:
        report.error, report.worst = errors.relative_error, errors.worst
    return report


def _representable_layers(
    lora: DecodedLora,
    weights: BaseWeights | None,
    to: str,
    rank: int | None,
    output: OutputFile,
    errors: TruncationErrors,
    notes: list[str],
) -> dict[str, LayerTensors]:
    """The changes in a form that the target format can hold, as far as a base and a rank allow it."""
    if to == "diff":
        return _full_differences(lora, weights, output)
    if rank is not None:
        return _approximate_layers(lora, weights, Truncation(rank=rank), to, errors, notes)
    # exact forms are found by the format itself, which refuses changes without one
    return lora.layers


def full_difference(lora: DecodedLora, layer: str, weights: BaseWeights | None) -> LayerTensors:
    """A layer's change as `diff` (norms: `w_norm`) tensors, float32. The base weight is read only if it is needed.

    Raises LorasmithError if it is needed and `weights` is None.
    """
    tensors, spec = lora.layers[layer], lora.model.layers[layer]
    with lora.explain_shape_errors(layer):
        difference = to_diff(tensors, spec.shape)
        if difference is not None:
            return difference
        if weights is None:
            raise LorasmithError(
                f"{lora.path}: the change of {layer} depends on the weights of the base model; name it with --base"
            )
        return to_diff_with_base(tensors, spec, weights.read(layer))


def _full_differences(lora: DecodedLora, weights: BaseWeights | None, output: OutputFile) -> dict[str, LayerTensors]:
    """All changes as full differences, converted one by one to the dtype of the file, to save memory."""
    dtype = output.dtype or lora.dtype
    differences: dict[str, LayerTensors] = {}
    for layer in lora.layers:
        tensors = full_difference(lora, layer, weights)
        differences[layer] = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    return differences


def _approximate_layers(
    lora: DecodedLora,
    weights: BaseWeights | None,
    truncation: Truncation,
    to: str,
    errors: TruncationErrors,
    notes: list[str],
) -> dict[str, LayerTensors]:
    """The layers, with the best LoRA in place of each change that the format cannot hold exactly. Changes of norms and
    biases are left out."""
    layers: dict[str, LayerTensors] = {}
    left_out: list[str] = []
    for layer, tensors in lora.layers.items():
        # only what has no exact form is approximated
        if _has_exact_form(lora, layer, to):
            layers[layer] = tensors
            continue
        difference = full_difference(lora, layer, weights)
        # LoRA has no place for norms and biases; changes of exactly zero are not worth a note
        others = [difference[name] for name in ("w_norm", "b_norm", "diff_b") if name in difference]
        if any(_is_nonzero(tensor) for tensor in others):
            left_out.append(layer)
        spec = lora.model.layers[layer]
        if spec.kind == "norm" or "diff" not in difference:
            continue
        svd = MatrixSvd(difference["diff"].reshape(spec.shape).float().flatten(1))
        up, down = errors.truncate(layer, svd, truncation.rank_for(svd))
        layers[layer] = lora_tensors(up, down, spec.shape)
    if left_out:
        notes.append(
            f"changes of norms or biases are left out, which LoRA cannot hold: {len(left_out)}, such as {left_out[0]}"
        )
    if not layers:
        raise LorasmithError(f"{lora.path}: none of its changes can be a LoRA; use --to diff")
    return layers


def _has_exact_form(lora: DecodedLora, layer: str, to: str) -> bool:
    """Whether the format can hold a layer's change without an approximation."""
    if lora.plain_lora(layer) is not None:
        return True
    if to != "peft":
        return False
    # peft has DoRA too, along outputs only
    try:
        encode_as(lora, {layer: lora.layers[layer]}, to)
    except LorasmithError:
        return False
    return True


def _encode(lora: DecodedLora, layers: Mapping[str, LayerTensors], to: str, rank: int | None) -> Encoded:
    """Encode in the target format; an error names the file and what to do."""
    try:
        return encode_as(lora, layers, to)
    except LorasmithError as error:
        hint = "" if rank is not None or to == "diff" else "; or give --rank R for the best LoRA of that rank"
        raise LorasmithError(f"{lora.path}: {error}{hint}") from None
    except SHAPE_ERRORS:
        raise LorasmithError(f"{lora.path}: some tensors do not fit the layers of {lora.model}") from None


def _mark_base(encoded: Encoded, lora: DecodedLora, to: str, notes: list[str]) -> Encoded:
    """The content, with a change of zeros where InvokeAI could not tell the base model without it."""
    marked = mark_base(encoded, lora.layers, lora.model) if to in MARKED_FORMATS else encoded
    if marked is not encoded:
        notes.append(
            "a change of zeros of one attention is added, by which InvokeAI tells the base model; it changes nothing"
        )
    return marked


def _load_tokens(path: Path, token_files: Sequence[Path]) -> TokenEmbeddings:
    """The new tokens of a file or of the exact file beside it, and those of embedding files."""
    tokens = load_token_embeddings(load(path))
    for file in token_files:
        token, vectors = embeddings.load(file)
        tokens[token] = token_embeddings.with_layer_axis(vectors, tuple(vectors))
    return tokens


def _token_notes(
    lora: DecodedLora, to: str, tokens: TokenEmbeddings, bundle_copied: bool, written: bool, averaged: bool
) -> list[str]:
    """Notes about new tokens that the new file does not have, or not exactly. `averaged`: it holds the mean of the
    vectors of all layers."""
    notes: list[str] = []
    if lora.bundled and not bundle_copied:
        notes.append(f"{len(lora.bundled)} tensors of new tokens are left out: {to} files cannot hold them")
    if averaged:
        warning = token_embeddings.averaging_warning(tokens)
        if warning:
            notes.append(warning)
    elif lora.tokens and not written:
        notes.append(
            f"its new tokens ({', '.join(lora.tokens)}) are not in the new file; for user interfaces they are in the "
            "embeddings folder of the run"
        )
    return notes


def _bundle_metadata(metadata: Mapping[str, str], tokens: TokenEmbeddings) -> dict[str, str]:
    """The metadata of a file that contains the tokens under their file names."""
    without_token_list = {key: value for key, value in metadata.items() if key != token_embeddings.METADATA_KEY}
    return without_token_list | token_embeddings.trigger_metadata(without_token_list, tokens)


def _reader_remarks(path: Path) -> list[str]:
    """What each program makes of the written file."""
    remarks: list[str] = []
    for reader, answer in reader_support(Survey(load(path))).items():
        remarks += [f"{reader}: {remark}" for remark in answer["remarks"]]
    return remarks


def _is_nonzero(tensor: Tensor) -> bool:
    return bool(tensor.float().square().sum())
