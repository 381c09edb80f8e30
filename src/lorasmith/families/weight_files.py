"""Which files of a folder hold the weights of a part."""

from __future__ import annotations

from pathlib import Path

from lorasmith.core.errors import LorasmithError
from lorasmith.core.text_files import read_json_table

PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")


def weight_files(folder: Path, part: str) -> list[Path]:
    """The `.safetensors` files of a part: one file, or the shards of an index.

    Plain names are preferred to variants (`fp16`), these to `non_ema`. `part` names the part in errors. Raises
    LorasmithError if the folder has no such file.
    """
    if not folder.is_dir():
        raise LorasmithError(f"{folder}: missing, so there is no {part}. Is the model folder complete?")

    chosen = preferred_files(folder)
    if chosen:
        return chosen
    pickles = [path for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES]
    if pickles:
        raise LorasmithError(f"{folder}: only {pickles[0].name}, {pickle_advice(pickles[0])}")
    raise LorasmithError(f"{folder}: no .safetensors file, so there is no {part}. Is the model folder complete?")


def preferred_files(folder: Path) -> list[Path]:
    """In order of preference: a whole plain file, plain shards, a whole variant, shards of a variant; else nothing."""
    candidates: list[tuple[tuple[object, ...], list[Path]]] = []
    sharded: set[str] = set()
    for index in folder.glob("*.safetensors.index*.json"):
        names = _shards(index)
        sharded.update(names)
        is_variant = not index.name.endswith(".index.json")
        preference = (is_variant, True, "non_ema" in index.name, len(index.name), index.name)
        candidates.append((preference, [folder / name for name in names]))
    for path in folder.glob("*.safetensors"):
        if path.name not in sharded:
            is_variant = path.name.count(".") > 1
            preference = (
                is_variant,
                False,
                "non_ema" in path.name,
                path.name.count("."),
                "fp16" not in path.name,
                path.name,
            )
            candidates.append((preference, [path]))
    return min(candidates, key=lambda candidate: candidate[0])[1] if candidates else []


def _shards(index: Path) -> list[str]:
    files = read_json_table(index).get("weight_map")
    if not isinstance(files, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in files.values()
    ):
        raise LorasmithError(f"{index}: weight_map does not name the files of the weights")
    return sorted(set(files.values()))


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
