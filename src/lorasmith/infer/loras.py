"""LoRA files on a loaded base."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from lorasmith.adapters.attach import AdapterSet, current
from lorasmith.adapters.base import Adapter, kind_of
from lorasmith.adapters.layer import spec_of, tensor_of
from lorasmith.core.errors import LorasmithError
from lorasmith.families.base import Family
from lorasmith.formats import kohya
from lorasmith.formats.read import LoraFile, load


def load_lora(family: Family, path: Path) -> AdapterSet:
    """The adapters of a file, attached at strength 1. Raises LorasmithError if the file does not fit this base."""
    file = load(path)
    layers, strangers = kohya.decode(file.tensors, family.from_kohya)
    if not layers:
        raise LorasmithError(
            f"{path}: none of its {len(file.tensors)} tensors belongs to a layer of this {family.kind} base"
            f"{_made_for(file)}. First name: {next(iter(file.tensors), 'none')}"
        )
    if strangers:
        raise LorasmithError(
            f"{path}: {len(strangers)} of its tensors belong to no layer of this {family.kind} base{_made_for(file)}, "
            f"for example {strangers[0]}"
        )
    components = list(dict.fromkeys(name.split(".", 1)[0] for name in layers))
    places = family.named_layers(components)
    adapters: dict[str, Adapter] = {}
    for name, words in layers.items():
        adapters[name] = restore(name, current(places[name]), words, path, _made_for(file))
    found = AdapterSet.restore(adapters, places)
    found.eval()
    return found.attach()


def restore(name: str, layer: object, words: dict[str, Tensor], path: Path, made_for: str) -> Adapter:
    """One layer's adapter. Raises LorasmithError for an unknown kind or other shapes than the layer's."""
    from torch import nn

    assert isinstance(layer, nn.Module)
    kind, spec = kind_of(words), spec_of(name, layer)
    if kind is None or spec is None:
        raise LorasmithError(f"{path}: {name} has words of no known adapter kind: {', '.join(sorted(words))}")
    base = tensor_of(layer, "weight")
    try:
        adapter = kind().restore(spec, base, words)
        adapter.delta(base)
    except (RuntimeError, KeyError) as error:
        shapes = ", ".join(f"{word} {tuple(tensor.shape)}" for word, tensor in words.items())
        raise LorasmithError(
            f"{path}: it does not fit this base{made_for}: {name} has shape {tuple(spec.shape)}, the file has {shapes}"
        ) from error
    return adapter.to(base.device)


def _made_for(file: LoraFile) -> str:
    version = file.metadata.get("ss_base_model_version") or file.metadata.get("modelspec.architecture")
    return f" (the file says that it was made for {version})" if version else ""
