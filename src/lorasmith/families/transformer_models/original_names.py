"""Where the layers of a diffusers transformer are stored in a file with its authors' own names.

Each family has one function from a layer's path in diffusers to its `Place`. Reading single files, and the names of
LoRA files, both follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from lorasmith.families.place import Place
from lorasmith.families.reader import TensorRef

__all__ = ["FUSED", "Place", "PlaceOf", "find_stored", "key_of"]

FUSED = (1, 1, 1)
"""q, k and v in one module."""
PlaceOf = Callable[[str], Place]
"""From a layer's path in diffusers to its place."""


def find_stored(refs: Mapping[str, TensorRef], names: Iterable[str], place_of: PlaceOf) -> dict[str, TensorRef]:
    """The parameters called `names` in diffusers, from the tensors of a file by the names in the file.

    Names that are not found are left out, and tensors that no name matches are added under their names in the file.
    """
    result: dict[str, TensorRef] = {}
    used: set[str] = set()
    for name in names:
        key, place = key_of(name, place_of)
        ref = refs.get(key)
        if ref is None:
            continue
        used.add(key)
        if len(place.sizes) > 1:
            ref = ref.rows(*place.rows(ref.shape[0]))
        result[name] = ref.with_halves_swapped() if place.halves_swapped else ref
    return result | {key: ref for key, ref in refs.items() if key not in used}


def key_of(name: str, place_of: PlaceOf) -> tuple[str, Place]:
    """The key of a parameter in the file, and the place of its layer."""
    path, _, parameter = name.rpartition(".")
    place = place_of(path)
    return f"{place.module}.{place.parameters.get(parameter, parameter)}".lstrip("."), place
