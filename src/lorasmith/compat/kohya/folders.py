"""The dataset that the options train_data_dir, reg_data_dir and in_json name: `N_class` folders or metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.compat.kohya.dataset import (
    DATASET_KEYS,
    IMAGE_KEYS,
    SUBSET_KEYS,
    KohyaDataset,
    KohyaSubset,
    keys_of_options,
    look_up,
)
from lorasmith.data.listing import CLASS_FOLDER, natural


def dataset_of_folders(options: Mapping[str, Any]) -> KohyaDataset:
    """`options`: the given options of the script."""
    given = keys_of_options(options)
    shared = look_up(IMAGE_KEYS, [given])
    shared |= {option.name: option.default for option in SUBSET_KEYS}
    data_folder, metadata_file = options.get("train_data_dir"), options.get("in_json")
    notes: list[str] = []

    # Metadata describes all images by itself; the names of folders are then not read.
    if metadata_file:
        values = shared | {"image_dir": data_folder, "metadata_file": metadata_file}
        subsets = [KohyaSubset(values, "in_json")]
    else:
        values = shared | {"conditioning_data_dir": options.get("conditioning_data_dir")}
        subsets = class_subsets(data_folder, values, "train_data_dir", notes)
        values = shared | {"is_reg": True}
        subsets += class_subsets(options.get("reg_data_dir"), values, "reg_data_dir", notes)
    return KohyaDataset(look_up(DATASET_KEYS, [given]), tuple(subsets), notes=notes)


def class_subsets(folder: str | None, shared: dict[str, Any], option: str, notes: list[str]) -> list[KohyaSubset]:
    """A subset for each `N_class` folder in `folder`, which are repeated N times.

    If the folder is not on this machine, the folder itself is the only subset.
    """
    if not folder:
        return []
    path = Path(folder).expanduser()
    if not path.is_dir():
        return [KohyaSubset(shared | {"image_dir": folder}, option, class_folders=True)]
    subsets: list[KohyaSubset] = []
    for class_folder in natural(child for child in path.iterdir() if child.is_dir()):
        name = class_folder.name

        # Folders with other names are a frequent reason for missing images, so they get a note.
        match = CLASS_FOLDER.fullmatch(name)
        repeats = int(match[1]) if match else 0
        if match is None or repeats < 1:
            notes.append(f"{option}: the folder {name} is ignored: its name must be of the form 10_name")
            continue
        values = {"image_dir": str(Path(folder) / name), "num_repeats": repeats, "class_tokens": match[2]}
        subsets.append(KohyaSubset(shared | values, f"{option}/{name}"))
    return subsets
