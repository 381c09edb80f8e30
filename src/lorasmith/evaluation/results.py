"""The results of an evaluation: scores of each candidate, as objects and as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lorasmith.core.quality import NUMBERS, Numbers, NumberValues, Ranking, numbers_of, rank, to_json
from lorasmith.evaluation.measure import Measurement, mean_score, text_alignment
from lorasmith.evaluation.pictures import EvaluatedPicture


@dataclass(frozen=True)
class CandidateResult:
    """The pictures of a candidate and their scores, in the same order."""

    name: str
    pictures: list[EvaluatedPicture]
    measurement: Measurement
    values: NumberValues = field(default_factory=dict)
    """What likeness, text, copying and drift are the means of."""
    is_lora: bool = False
    """Whether the pictures are those of a LoRA, and not of the base alone or of a folder."""

    @cached_property
    def four_numbers(self) -> Numbers:
        """Likeness, text, copying and drift with their intervals over prompts and seeds."""
        return numbers_of(self.values)

    def by_prompt(self) -> dict[str, list[int]]:
        """The indices of the pictures of each prompt."""
        indices: dict[str, list[int]] = {}
        for index, picture in enumerate(self.pictures):
            indices.setdefault(picture.prompt, []).append(index)
        return indices

    def numbers(self, indices: list[int] | None = None) -> dict[str, Any]:
        """The mean scores of all pictures, or of those at `indices`; text scores are None where there is no text that
        can be compared."""
        return {
            "text_alignment": _round(mean_score(text_alignment(self.measurement.text), indices)),
            "text_cosine": _round(mean_score(self.measurement.text, indices)),
            "image_alignment": _round(mean_score(self.measurement.image, indices)),
            "pictures": len(self.pictures) if indices is None else len(indices),
        }


@dataclass
class Evaluation:
    """The result of `lorasmith.evaluate`: a row for each candidate, and the files that were written."""

    folder: Path
    scorer: str
    """The name of the scorer."""
    training: list[Path]
    """The training images."""
    highest_training_similarity: float | None
    """The highest cosine between two training images; None if there is only one."""
    rows: list[CandidateResult] = field(default_factory=list)

    @property
    def report(self) -> Path:
        """The page with numbers and pictures."""
        return self.folder / "report.html"

    @property
    def file(self) -> Path:
        """The numbers as JSON."""
        return self.folder / "evaluation.json"

    @property
    def measured(self) -> list[str]:
        """The names of the numbers that were measured for any candidate, in the order of tables."""
        return [name for name in NUMBERS if any(row.four_numbers.get(name) for row in self.rows)]

    def rankings(self) -> list[Ranking]:
        """The order of the LoRAs by each number, with those that are not distinguishable from the best; empty if there
        are fewer than two. The base alone and folders of pictures are not ranked: they have no drift."""
        loras = [row for row in self.rows if row.is_lora]
        if len(loras) < 2:
            return []
        found = [
            rank(number, {row.name: row.values[number] for row in loras if number in row.values}) for number in NUMBERS
        ]
        return [ranking for ranking in found if ranking is not None and len(ranking.order) > 1]

    def to_dict(self) -> dict[str, Any]:
        """The content of `evaluation.json`."""
        return {
            "scorer": self.scorer,
            "training_images": len(self.training),
            "highest_among_training_images": _round(self.highest_training_similarity),
            "rows": [self._row_to_dict(row) for row in self.rows],
            "rankings": {
                ranking.number: {
                    "order": ranking.order,
                    "not_distinguishable_from_the_first": ranking.ties,
                    "weak": ranking.weak,
                }
                for ranking in self.rankings()
            },
        }

    def _row_to_dict(self, row: CandidateResult) -> dict[str, Any]:
        nearest = []
        for near in row.measurement.nearest:
            nearest.append(
                {
                    "picture": str(row.pictures[near.picture].path),
                    "training": str(self.training[near.training]),
                    "cosine": round(near.cosine, 4),
                }
            )
        prompts = [{"prompt": prompt, **row.numbers(indices)} for prompt, indices in row.by_prompt().items()]
        four = to_json(row.four_numbers)
        return {"name": row.name, **row.numbers(), "intervals": four, "nearest": nearest, "prompts": prompts}


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
