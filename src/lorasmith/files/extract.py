"""A LoRA of the difference of two checkpoints, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lorasmith.adapters.attach import select_layers
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.families.reader import TensorRef
from lorasmith.families.stable_diffusion.layer_names import PRESETS
from lorasmith.files.lora import Lora, Output, Report, as_format, lora_tensors, ranks_of, save
from lorasmith.files.lowrank import Cut, Dense, Loss
from lorasmith.files.model import Model, Weights, components
from lorasmith.formats.metadata import Facts, describe
from lorasmith.formats.rewrite import LayerTensors

EVERYTHING = "*"


def extract(
    tuned: str | Path,
    base: str | Path,
    cut: Cut,
    output: Output,
    *,
    layers: Sequence[str] = (EVERYTHING,),
    progress: Progress | None = None,
) -> Report:
    """Write the best LoRA of `tuned - base`, over linears and convolutions that differ; with an energy, each layer gets
    the ranks that it needs. `layers`: presets or patterns of layer names.

    Two tensors are in memory at a time, in float32. Raises LorasmithError if the two are of different families or
    sizes, or do not differ.
    """
    output.check()
    model = Model.of(base)
    with Weights(Model.of(tuned)) as new, Weights(model) as old:
        if new.model.layers.keys() != model.layers.keys() or new.model.shapes != model.shapes:
            raise LorasmithError(f"{tuned} is not a model like {base}: {new.model} and {model} have different layers")
        specs = [model.layers[n] for n in select_layers(tuple(layers), _places(model), PRESETS)]
        names = [s.name for s in specs if s.kind != "norm" and s.groups == 1]
        found: dict[str, LayerTensors] = {}
        loss = Loss()
        with (progress or Progress()).track("layers", len(names)) as advance:
            for name in names:
                difference = new.read(name).sub_(old.read(name))
                if bool(difference.any()):
                    found[name] = _best(name, difference, cut, output.dtype or torch.float16, loss)
                advance(1, "")
        if not found:
            raise LorasmithError(f"{tuned} and {base} do not differ in any of {len(names)} layers")
        notes = _others(new, old, names)
    lora = Lora(output.path, model, found, _metadata(model, output, tuned, found), dtype=torch.float16)
    note = f"extracted from {Path(tuned).name} minus {Path(base).name}, error {loss.error:.3g}"
    save(output, lora, as_format(lora, found, "kohya"), note)
    return Report(output.path, len(found), loss.error, loss.worst, ranks_of(found), notes)


def _best(name: str, difference: Tensor, cut: Cut, dtype: torch.dtype, loss: Loss) -> LayerTensors:
    spectrum = Dense(difference.flatten(1))
    if not bool(torch.isfinite(spectrum.values).all()):
        raise LorasmithError(f"{name}: the difference of the two is not finite; is one of the checkpoints damaged?")
    up, down = spectrum.cut(cut.of(spectrum))
    loss.add(name, spectrum.total, spectrum.lost(down.shape[0]))
    tensors = lora_tensors(up, down, difference.shape)
    return {name: t.to(dtype) if t.dim() else t for name, t in tensors.items()}


def _places(model: Model) -> dict[str, tuple[torch.nn.Module, str]]:
    """Layer names as `chosen` takes them; no module is looked at."""
    return dict.fromkeys(model.layers, (torch.nn.Module(), ""))


def _others(new: Weights, old: Weights, names: Sequence[str]) -> list[str]:
    """What else differs, which no LoRA can hold: norms, biases, embeddings."""
    held = {ref for weights in (new, old) for name in names if (ref := weights.ref(name))}
    changed = [
        f"{part}.{name}"
        for part in components(new.model.layers)
        for name, (a, b) in _pairs(new.part(part), old.part(part))
        if a not in held and a.shape == b.shape and _differ(new.read_ref(a), old.read_ref(b))
    ]
    if not changed:
        return []
    return [f"{len(changed)} other tensors differ, which the LoRA does not hold (norms, biases ...): {changed[0]} ..."]


def _pairs(new: dict[str, TensorRef], old: dict[str, TensorRef]) -> Iterator[tuple[str, tuple[TensorRef, TensorRef]]]:
    yield from ((name, (ref, old[name])) for name, ref in new.items() if name in old)


def _differ(a: Tensor, b: Tensor) -> bool:
    return not torch.equal(a, b) if a.dtype == b.dtype else not torch.equal(a.float(), b.float())


def _metadata(model: Model, output: Output, tuned: str | Path, layers: dict[str, LayerTensors]) -> dict[str, str]:
    assert model.source is not None
    ranks = ranks_of(layers)
    rank = max(ranks, key=lambda r: ranks[r])
    comment = f"difference of {Path(tuned).name} and {model.source.name}"
    return describe(
        Facts(
            name=output.path.stem,
            family=model.kind,
            prediction=model.source.prediction,
            kind="lora",
            rank=rank,
            alpha=float(rank),
            base_name=model.source.name,
            comment=comment,
        )
    )
