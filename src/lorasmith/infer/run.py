"""Sampling into a folder: what the command and the Python API call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorasmith.adapters.attach import AdapterSet
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.infer.grid import grid
from lorasmith.infer.loras import load_lora
from lorasmith.infer.png import save, to_image
from lorasmith.infer.prompts import split_loras
from lorasmith.infer.sample import Picture, Request, sample


@dataclass(frozen=True)
class SampleResult:
    """The files of one call."""

    folder: Path
    files: tuple[Path, ...]
    grid: Path


@dataclass(frozen=True)
class LoraUse:
    """A LoRA file and its strength."""

    path: Path
    strength: float = 1.0

    @classmethod
    def read(cls, text: str) -> LoraUse:
        """`file.safetensors` or `file.safetensors:0.8`."""
        stem, _, number = text.rpartition(":")
        try:
            return cls(Path(stem), float(number)) if stem else cls(Path(text))
        except ValueError:
            return cls(Path(text))


def sample_to_folder(
    base: str,
    requests: Sequence[Request],
    folder: Path,
    *,
    loras: Sequence[LoraUse] = (),
    count: int = 1,
    progress: Progress | None = None,
) -> SampleResult:
    """Draw each request `count` times (seeds counting up) into PNG files and a labelled grid.

    LoRA tags in prompts are looked up beside the files of `loras` and in the current folder. Raises LorasmithError for
    what the user can repair.
    """
    progress = progress or Progress()
    family = load(base)
    pictures: list[Picture] = []
    wanted = [replace(r, seed=r.seed + i) for r in requests for i in range(count)]
    for use, members in _by_loras(wanted, loras):
        attached = [attach(family, lora) for lora in use]
        try:
            plain = [replace(r, prompt=split_loras(r.prompt)[0]) for r in members]
            facts = {"Model": Path(base).name, **({"Lora": ", ".join(_word(u) for u in use)} if use else {})}
            pictures += [replace(p, facts=facts) for p in sample(family, plain, progress=progress)]
        finally:
            for adapters in reversed(attached):
                adapters.detach()
    return write(pictures, folder, count)


def write(pictures: Sequence[Picture], folder: Path, columns: int) -> SampleResult:
    """PNG files numbered after those that are there, and a grid with a row for each prompt."""
    folder.mkdir(parents=True, exist_ok=True)
    start = 1 + max((int(f.stem[:5]) for f in folder.glob("[0-9][0-9][0-9][0-9][0-9]*.png")), default=-1)
    files = tuple(save(p, folder / f"{start + i:05d}-{p.request.seed}.png") for i, p in enumerate(pictures))
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    if columns == 1:  # one picture a prompt: prompts side by side
        sheet = grid([[to_image(p.pixels) for p in pictures]], column_labels=[p.request.prompt for p in pictures])
    else:
        labels = [str(p.request.seed) for p in rows[0]]
        sheet = grid([[to_image(p.pixels) for p in row] for row in rows], column_labels=[f"seed {x}" for x in labels])
    path = folder / "grid.png"
    sheet.save(path)
    return SampleResult(folder, files, path)


def attach(family: Family, use: LoraUse | tuple[Path, dict[str, float]]) -> AdapterSet:
    """A LoRA on the family, at its strength."""
    path, strength = (use.path, use.strength) if isinstance(use, LoraUse) else use
    adapters = load_lora(family, path)
    adapters.set_strength(strength)
    return adapters


def _by_loras(requests: Sequence[Request], loras: Sequence[LoraUse]) -> list[tuple[list[Any], list[Request]]]:
    """Requests in order, gathered where neighbours use the same LoRAs."""
    groups: list[tuple[list[Any], list[Request]]] = []
    for request in requests:
        tags = split_loras(request.prompt)[1]
        use: list[Any] = [*loras]
        for tag in tags:
            path = _find(tag.name, loras)
            use = [u for u in use if not (isinstance(u, LoraUse) and u.path == path)]
            use.append((path, {"unet": tag.unet, "te": tag.text, "te1": tag.text, "te2": tag.text}))
        if groups and groups[-1][0] == use:
            groups[-1][1].append(request)
        else:
            groups.append((use, [request]))
    return groups


def _find(name: str, loras: Sequence[LoraUse]) -> Path:
    folders = dict.fromkeys([*(use.path.parent for use in loras), Path()])
    for path in (*(folder / f"{name}.safetensors" for folder in folders), Path(name)):
        if path.is_file():
            return path
    places = ", ".join(str(folder) for folder in folders)
    raise LorasmithError(f"<lora:{name}>: there is no {name}.safetensors in {places}; give it with --lora")


def _word(use: Any) -> str:
    if isinstance(use, LoraUse):
        return f"{use.path.stem}:{use.strength:g}"
    path, strength = use
    return f"{path.stem}:{strength['unet']:g}"
