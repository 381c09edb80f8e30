"""A LoRA of the difference of two checkpoints, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lorasmith.adapters.attach import select_layers
from lorasmith.adapters.base import LayerSpec
from lorasmith.core.component_names import component_of, is_text_encoder
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.families.file_names import variant_of
from lorasmith.files.lora import DecodedLora, FileReport, OutputFile, encode_as, lora_tensors, rank_counts, save
from lorasmith.files.lowrank import MatrixSvd, Truncation, TruncationErrors
from lorasmith.files.model import BaseWeights, ModelLayers, components_of
from lorasmith.formats.joint_modules import split
from lorasmith.formats.metadata import Facts, describe
from lorasmith.formats.rewrite import LayerTensors
from lorasmith.formats.survey import T5

ALL_LAYERS = "*"


def extract(
    tuned: str | Path,
    base: str | Path,
    truncation: Truncation,
    output: OutputFile,
    *,
    base_parts: Sequence[str] = (),
    layers: Sequence[str] = (ALL_LAYERS,),
    progress: Progress | None = None,
) -> FileReport:
    """Write the best LoRA of `tuned - base`, over the linears and convolutions that differ. With an energy, each layer
    gets the rank that it needs. `layers`: presets or patterns of layer names.

    `base_parts`: as in `ModelLayers.from_base`; a text encoder is compared if both models have it. T5 is not compared:
    it is stored in several precisions, and trained by few. Two tensors are in memory at a time, in float32. Raises
    LorasmithError if the two models are of different families or sizes, or do not differ.
    """
    output.check()
    model = ModelLayers.from_base(base, base_parts)
    dtype = output.dtype or torch.float16
    errors = TruncationErrors()
    changed: dict[str, LayerTensors] = {}
    tuned_model, model, notes = _with_shared_text_encoders(ModelLayers.from_base(tuned), model)
    with BaseWeights(tuned_model) as tuned_weights, BaseWeights(model) as base_weights:
        if tuned_model.layers.keys() != model.layers.keys() or tuned_model.shapes != model.shapes:
            raise LorasmithError(f"{tuned} is not a model like {base}: {tuned_model} and {model} have different layers")
        names = _select_layers(model, layers)
        with (progress or Progress()).track("layers", len(names)) as advance:
            for unit in _units(model, names):
                # in place, so that two tensors are enough
                parts = [tuned_weights.read(name).sub_(base_weights.read(name)) for name in unit]
                difference = parts[0] if len(parts) == 1 else torch.cat(parts)
                del parts
                if bool(difference.any()):
                    best = _best_lora(unit[0], difference, truncation, dtype, errors)
                    part = model.kohya_part(unit[0])
                    pieces = [best] if part is None or len(unit) == 1 else split(best, part.sizes)
                    changed |= dict(zip(unit, pieces, strict=True))
                advance(len(unit), "")
        if not changed:
            raise LorasmithError(f"{tuned} and {base} do not differ in any of {len(names)} layers")
        notes += _other_differences(tuned_weights, base_weights, names)

    lora = DecodedLora(output.path, model, changed, _metadata(model, output, tuned, changed), dtype=torch.float16)
    note = f"extracted from {Path(tuned).name} minus {Path(base).name}, error {errors.relative_error:.3g}"
    save(output, lora, encode_as(lora, changed, "kohya"), note)
    ranks = rank_counts(changed)
    return FileReport(output.path, len(changed), errors.relative_error, errors.worst, ranks, notes)


def _with_shared_text_encoders(tuned: ModelLayers, base: ModelLayers) -> tuple[ModelLayers, ModelLayers, list[str]]:
    """Both models without T5, and without the text encoders and layers of text encoders that only one of them has, with
    a note of these: a file can be the denoiser alone, and SD3's CLIP-L has a projection in some layouts only."""
    tuned, base = (_filter_layers(model, lambda layer: layer.component != T5) for model in (tuned, base))
    components = [components_of(model.layers) for model in (tuned, base)]
    encoders = sorted(name for name in set(components[0]) ^ set(components[1]) if is_text_encoder(name))
    tuned, base = (_filter_layers(model, lambda layer: layer.component not in encoders) for model in (tuned, base))
    layers = sorted(name for name in tuned.layers.keys() ^ base.layers.keys() if is_text_encoder(component_of(name)))
    tuned, base = (_filter_layers(model, lambda layer: layer.name not in layers) for model in (tuned, base))
    notes: list[str] = []
    if encoders:
        without = tuned if encoders[0] not in components[0] else base
        lacking = f"{', '.join(encoders)} ({without} lacks {encoders[0]})"
        notes.append(f"text encoders that only one of the two models has are not compared: {lacking}")
    if layers:
        notes.append(
            f"layers of text encoders that only one of the two models has are not compared: {', '.join(layers)}"
        )
    return tuned, base, notes


def _filter_layers(model: ModelLayers, keep: Callable[[LayerSpec], bool]) -> ModelLayers:
    return replace(model, layers={name: spec for name, spec in model.layers.items() if keep(spec)})


def _select_layers(model: ModelLayers, patterns: Sequence[str]) -> list[str]:
    """The names of the linears and ungrouped convolutions that presets or patterns select."""
    assert model.source is not None
    # `select_layers` selects by the names alone; it takes modules too, but does not look at them
    places = dict.fromkeys(model.layers, (torch.nn.Module(), ""))
    specs = [model.layers[name] for name in select_layers(tuple(patterns), places, model.source.layer_presets)]
    return [spec.name for spec in specs if spec.kind != "norm" and spec.groups == 1]


def _units(model: ModelLayers, names: Sequence[str]) -> list[list[str]]:
    """Layers that share a module of the file (Flux: q, k and v), which get one LoRA, in the order of their rows; others
    one by one."""
    units: dict[str, list[str]] = {}
    for name in names:
        part = model.kohya_part(name)
        units.setdefault(name if part is None else part.module, []).append(name)
    complete: list[list[str]] = []
    for unit, members in units.items():
        if len(members) > 1 and len(members) == len(model.kohya_parts(unit)):
            complete.append(list(model.kohya_parts(unit)))
        else:
            complete += [[name] for name in members]
    return complete


def _best_lora(
    name: str, difference: Tensor, truncation: Truncation, dtype: torch.dtype, errors: TruncationErrors
) -> LayerTensors:
    svd = MatrixSvd(difference.flatten(1))
    if not bool(torch.isfinite(svd.singular_values).all()):
        raise LorasmithError(f"{name}: the difference of the two is not finite; is one of the checkpoints damaged?")
    up, down = errors.truncate(name, svd, truncation.rank_for(svd))
    tensors = lora_tensors(up, down, difference.shape)
    # alphas (scalars) keep float32
    return {tensor_name: tensor.to(dtype) if tensor.dim() else tensor for tensor_name, tensor in tensors.items()}


def _other_differences(tuned: BaseWeights, base: BaseWeights, names: Sequence[str]) -> list[str]:
    """A note about other tensors that differ, which the LoRA does not hold: norms, biases, embeddings."""
    # the tensors that the LoRA holds, by their location
    in_lora = {weights.ref(name) for weights in (tuned, base) for name in names}
    changed: list[str] = []
    for component in components_of(tuned.model.layers):
        base_refs = base.component_refs(component)
        for name, tuned_ref in tuned.component_refs(component).items():
            base_ref = base_refs.get(name)
            if base_ref is None or tuned_ref in in_lora or tuned_ref.shape != base_ref.shape:
                continue
            if _differ(tuned.read_ref(tuned_ref), base.read_ref(base_ref)):
                changed.append(f"{component}.{name}")
    if not changed:
        return []
    return [f"{len(changed)} other tensors differ, which the LoRA does not hold (norms, biases ...): {changed[0]} ..."]


def _differ(a: Tensor, b: Tensor) -> bool:
    if a.dtype == b.dtype:
        return not torch.equal(a, b)
    return not torch.equal(a.float(), b.float())


def _metadata(
    model: ModelLayers, output: OutputFile, tuned: str | Path, layers: dict[str, LayerTensors]
) -> dict[str, str]:
    assert model.source is not None
    counts = rank_counts(layers)
    commonest_rank = max(counts, key=lambda rank: counts[rank])
    facts = Facts(
        name=output.path.stem,
        family=model.kind,
        prediction=model.source.prediction,
        kind="lora",
        variant=variant_of(model.source),
        rank=commonest_rank,
        alpha=float(commonest_rank),
        base_name=model.source.name,
        comment=f"difference of {Path(tuned).name} and {model.source.name}",
    )
    return describe(facts)
