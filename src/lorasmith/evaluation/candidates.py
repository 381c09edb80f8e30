"""The candidates of an evaluation: what is compared, each a row of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lorasmith.core.errors import LorasmithError
from lorasmith.sampling.loras import LoraUse


@dataclass(frozen=True)
class Candidate:
    """The base model with some LoRAs (none: the base model alone), or a folder of existing pictures."""

    name: str
    uses: tuple[LoraUse, ...] = ()
    folder: Path | None = None


def list_candidates(
    loras: Sequence[LoraUse], folders: Sequence[Path], strengths: Sequence[float], with_base: bool
) -> list[Candidate]:
    """The base model alone if wanted, each LoRA at each factor of its strength, and each folder of existing pictures.

    Raises LorasmithError if there is no candidate, if a file or folder is missing, or if two candidates are the same.
    """
    for use in loras:
        if not use.path.is_file():
            raise LorasmithError(f"{use.path}: no such LoRA file")
    for folder in folders:
        if not folder.is_dir():
            raise LorasmithError(f"{folder}: no such folder of pictures")

    candidates = []
    if with_base:
        candidates.append(Candidate("base alone"))
    for use in loras:
        candidates += [_lora_candidate(use.times(factor)) for factor in strengths]
    candidates += [Candidate(str(folder), folder=folder) for folder in folders]
    if not candidates:
        raise LorasmithError("there is nothing to evaluate: give --lora FILE, --drawn FOLDER or --with-base")
    return _distinguish(candidates)


def _lora_candidate(use: LoraUse) -> Candidate:
    name = use.path.stem if use.strength == 1 else f"{use.path.stem} at {use.strength:g}"
    return Candidate(name, (use,))


def _distinguish(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with the folder's name before the name of LoRAs that are called the same.

    Raises LorasmithError if two names are still equal.
    """
    # Two LoRAs of different folders may have the same file name, such as that of a run.
    names = [candidate.name for candidate in candidates]
    distinct = []
    for candidate in candidates:
        if candidate.uses and names.count(candidate.name) > 1:
            folder = candidate.uses[0].path.parent.name
            candidate = replace(candidate, name=f"{folder}/{candidate.name}")
        distinct.append(candidate)

    # Names are keys of the results, so they must differ.
    final_names = [candidate.name for candidate in distinct]
    for candidate in distinct:
        if final_names.count(candidate.name) > 1:
            raise LorasmithError(f"{candidate.name} is given twice")
    return distinct
