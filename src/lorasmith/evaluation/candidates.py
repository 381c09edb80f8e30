"""What `lorasmith evaluate` is asked for: settings, prompts, and the contestants."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

import lorasmith
from lorasmith.core.errors import LorasmithError, did_you_mean
from lorasmith.evaluation.base import Scorer
from lorasmith.evaluation.clip import Clip
from lorasmith.sampling.loras import LoraUse
from lorasmith.sampling.settings import SampleSettings

PLACE = "<TOK>"
"""Stands for the concept in prompts."""
SETS = Path(lorasmith.__file__).parent / "assets" / "evaluate"


class EvaluateSettings(SampleSettings):
    """How pictures are drawn and measured. Defaults: the protocol of Mix-of-Show (arXiv 2305.18292, section 6.2)."""

    base: str | None = None
    """What pictures are drawn with."""
    scorer: Scorer = Field(default_factory=Clip)
    seed: int = Field(default=1, ge=0)
    count: int = Field(default=50, ge=1)
    """Pictures of each prompt."""
    sampler: str = "dpm++_2m"
    cfg: float = 7.5
    trigger: str = ""
    """What `<TOK>` becomes when pictures are drawn with a LoRA."""
    class_word: str = ""
    """What it becomes when they are measured, and for the base alone: the plain word of what the concept is."""
    prefix: str = "A photo depicts "
    """Goes before the texts that are measured."""


@dataclass(frozen=True)
class Contestant:
    """One row of the table: LoRAs to draw with (none: the base alone), or a folder of pictures that are drawn."""

    name: str
    uses: tuple[LoraUse, ...] = ()
    folder: Path | None = None


def contestants(
    loras: Sequence[LoraUse], drawn: Sequence[Path], strengths: Sequence[float], base: bool
) -> list[Contestant]:
    """Each file at each factor of its strength, the base alone if it is asked for, and each folder.

    Raises LorasmithError if there is nothing, a file or folder is missing, or two are the same.
    """
    for path in (use.path for use in loras):
        if not path.is_file():
            raise LorasmithError(f"{path}: no such LoRA file")
    for path in drawn:
        if not path.is_dir():
            raise LorasmithError(f"{path}: no such folder of pictures")
    found = [Contestant("base alone")] if base else []
    for use in loras:
        for factor in strengths:
            at = use.times(factor)
            text = "" if at.strength == 1 else f" at {at.strength:g}"
            found.append(Contestant(f"{use.path.stem}{text}", (at,)))
    found += [Contestant(f"{path}", folder=path) for path in drawn]
    if not found:
        raise LorasmithError("there is nothing to evaluate: give --lora FILE, --drawn FOLDER or --with-base")
    names = [c.name for c in found]
    twice = [c for c in found if names.count(c.name) > 1]
    if twice:
        found = [
            Contestant(f"{c.uses[0].path.parent.name}/{c.name}", c.uses) if c in twice and c.uses else c for c in found
        ]
    if len({c.name for c in found}) < len(found):
        raise LorasmithError(f"{twice[0].name} is asked for twice")
    return found


def prompts_of(asked: str | Path | Sequence[str]) -> list[str]:
    """The prompts of a built-in set (its name), a file (one a line, `#` before remarks), or a list.

    Raises LorasmithError if there is no such set or file, or none of the prompts is for the concept.
    """
    if isinstance(asked, str | Path):
        path = SETS / f"{asked}.txt"
        if not path.is_file():
            path = Path(asked)
        if not path.is_file():
            sets = sorted(file.stem for file in SETS.glob("*.txt"))
            hint = did_you_mean(str(asked), sets)
            raise LorasmithError(
                f"--prompts {asked}: there is no such file; the sets that are built in: {', '.join(sets)}"
                f"{f'; {hint}' if hint else ''}"
            )
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        place, found = str(path), [line for line in lines if line and not line.startswith("#")]
    else:
        place, found = "the prompts", list(asked)
    found = list(dict.fromkeys(found))
    if not found:
        raise LorasmithError(f"{place}: there is no prompt in it")
    without = [p for p in found if PLACE not in p]
    if len(without) == len(found):
        raise LorasmithError(
            f'{place}: {PLACE} is in none of its prompts, such as "{found[0]}"; write it where the concept stands'
        )
    return found


def with_word(prompt: str, word: str) -> str:
    """A prompt with a word in the concept's place."""
    return prompt.replace(PLACE, word)


def plain(prompt: str, settings: EvaluateSettings) -> str:
    """The text that a picture of this prompt is measured with: the trigger gives way to the class word."""
    if settings.trigger and settings.class_word:
        prompt = re.sub(rf"(?<!\w){re.escape(settings.trigger)}(?!\w)", lambda _: settings.class_word, prompt)
    return settings.prefix + with_word(prompt, settings.class_word)
