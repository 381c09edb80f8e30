"""Which files of a folder hold the weights of a part."""

from __future__ import annotations

import json
from pathlib import Path

from lorasmith.core.errors import LorasmithError

PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")


def weight_files(folder: Path, part: str) -> list[Path]:
    """The `.safetensors` files of a part: one file, or the shards of an index.

    Plain names are preferred to variants (`fp16`), these to `non_ema`. `part` names the part in errors. Raises
    LorasmithError if the folder has no such file.
    """
    if not folder.is_dir():
        raise LorasmithError(f"{folder}: missing, so there is no {part}. Is the model folder complete?")

    indexes = sorted(folder.glob("*.safetensors.index*.json"), key=lambda p: ("non_ema" in p.name, len(p.name), p.name))
    shards = {index: _shards(index) for index in indexes}
    sharded = {shard for names in shards.values() for shard in names}
    whole = [p for p in folder.glob("*.safetensors") if p.name not in sharded]
    whole.sort(key=lambda p: ("non_ema" in p.name, p.name.count("."), "fp16" not in p.name, p.name))

    # In order of preference: a whole plain file, plain shards, a whole variant, shards of a variant.
    plain_indexes = [index for index in indexes if index.name.endswith(".index.json")]
    if whole and whole[0].name.count(".") == 1:
        return [whole[0]]
    if plain_indexes:
        return [folder / shard for shard in shards[plain_indexes[0]]]
    if whole:
        return [whole[0]]
    if indexes:
        return [folder / shard for shard in shards[indexes[0]]]

    pickles = [p for p in folder.iterdir() if p.suffix in PICKLE_SUFFIXES]
    if pickles:
        raise LorasmithError(f"{folder}: only {pickles[0].name}, {pickle_advice(pickles[0])}")
    raise LorasmithError(f"{folder}: no .safetensors file, so there is no {part}. Is the model folder complete?")


def _shards(index: Path) -> list[str]:
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def pickle_advice(path: Path) -> str:
    """Why pickles are refused, and how to convert one safely."""
    target = path.with_suffix(".safetensors").name
    return (
        "which is a pickle: opening it may run any code that is hidden in it. Get the .safetensors version, or convert "
        "it once, without running what is in it:\n"
        f'  python -c "import torch, safetensors.torch as s; d = torch.load({path.name!r}, map_location={"cpu"!r}, '
        f"weights_only=True); d = d.get({'state_dict'!r}, d); "
        f's.save_file({{k: v.clone().contiguous() for k, v in d.items() if hasattr(v, {"shape"!r})}}, {target!r})"'
    )
