"""LoRA files written into the weights of a loaded base, as `lorasmith merge` writes them into a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.families.base import Family
from lorasmith.families.fingerprint import file_hash
from lorasmith.formats.read import LoraFile, load
from lorasmith.sampling.loras import LoraUse, build_adapters, decode_layers


def merge_into_base(family: Family, uses: Sequence[LoraUse]) -> list[str]:
    """Write files into the base, each at its strength, one on top of the other; returns what a reader should know.

    A text encoder that is not loaded yet gets its part when it is. Raises LorasmithError if a file is missing or does
    not fit this base.
    """
    said = []
    for use in uses:
        file = load(use.path)
        layers = decode_layers(file, family)
        if not layers:
            raise LorasmithError(f"{use.path}: it holds new words alone, so there is nothing to merge")
        parts: dict[str, dict[str, Mapping[str, Tensor]]] = {}
        for layer, words in layers.items():
            parts.setdefault(layer.split(".", 1)[0], {})[layer] = words
        for component, strength in use.by_component(list(parts)).items():
            mark = f"{file_hash(use.path)}:{strength!r}"
            family.amend(component, mark, partial(_write, family, file, parts[component], strength))
        counts = ", ".join(f"{len(found)} layers of {component}" for component, found in parts.items())
        new = [*file.embeddings, *file.words]
        left = f"; its new words ({', '.join(new)}) are left out" if new else ""
        said.append(f"merged into the base: {use.path} at {use.strength:g}, {counts}{left}")
    return said


def _write(family: Family, file: LoraFile, layers: Mapping[str, Mapping[str, Tensor]], strength: float) -> None:
    adapters = build_adapters(family, file, layers)
    adapters.merge(strength, for_good=True)
    for name in adapters.adapters:
        if not torch.isfinite(adapters.weight_of(name)).all():
            word = str(family.dtype).removeprefix("torch.")
            raise LorasmithError(f"{file.path}: merged at {strength:g}, {name} does not fit into {word}")
