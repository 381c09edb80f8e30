"""LoRA files written into the weights of a loaded base, as `lorasmith merge` writes them into a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from lorasmith.core.dtypes import dtype_name
from lorasmith.core.errors import LorasmithError
from lorasmith.families.base import Family
from lorasmith.families.fingerprint import file_hash
from lorasmith.formats.lora_file import LoraFile
from lorasmith.formats.read import load
from lorasmith.formats.t5_layers import without_t5
from lorasmith.sampling.loras import LoraUse, build_adapters, decode_layers


def merge_into_base(family: Family, uses: Sequence[LoraUse]) -> list[str]:
    """Write LoRA files into the weights of the base, each at its strength, one after the other.

    Returns a note on each file for the user. A text encoder that is not loaded yet is changed when it is. Raises
    LorasmithError if a file is missing or does not fit this base.
    """
    notes: list[str] = []
    for use in uses:
        file = without_t5(load(use.path))
        layers = decode_layers(file, family)
        if not layers:
            raise LorasmithError(f"{use.path}: the file has new tokens only, so there is nothing to merge")

        by_component: dict[str, dict[str, Mapping[str, Tensor]]] = {}
        for layer, tensors in layers.items():
            component = layer.split(".", 1)[0]
            by_component.setdefault(component, {})[layer] = tensors

        # The family applies the change whenever it loads the component, and the key makes caches tell bases apart.
        for component, strength in use.by_component(list(by_component)).items():
            key = f"{file_hash(use.path)}:{strength!r}"
            family.amend(component, key, partial(merge_layers, family, file, by_component[component], strength))

        counts = ", ".join(f"{len(changed)} layers of {component}" for component, changed in by_component.items())
        note = f"merged into the base: {use.path} at {use.strength:g}, {counts}"
        new_tokens = [*file.bundled_embeddings, *file.token_embeddings]
        if new_tokens:
            note += f"; its new words ({', '.join(new_tokens)}) are left out"
        notes.append(note)
        notes += [f"{use.path}: {reading_note}" for reading_note in file.notes]
    return notes


def merge_layers(family: Family, file: LoraFile, layers: Mapping[str, Mapping[str, Tensor]], strength: float) -> None:
    """Write the changes of some layers into their weights. Raises LorasmithError if a weight is not finite then."""
    adapters = build_adapters(family, file, layers)
    adapters.merge(strength, for_good=True)
    for name in adapters.adapters:
        if not torch.isfinite(adapters.weight_of(name)).all():
            dtype = dtype_name(family.dtype)
            raise LorasmithError(f"{file.path}: merged at {strength:g}, {name} does not fit into {dtype}")
