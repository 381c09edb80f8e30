"""The four numbers of a LoRA: what they count, and what they must be in known cases."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lorasmith.core.quality import NUMBERS, Numbers, Values, advantage, numbers_of, rank, values_from_json
from lorasmith.evaluation.numbers import drift_values, quality_values
from lorasmith.evaluation.pictures import EvaluatedPicture

PROMPTS = ("a photo of <TOK>", "a photo of a dog", "a beach")


def draw(folder: Path, level: int) -> list[EvaluatedPicture]:
    """Two pictures of each prompt of one grey level, named by prompt and seed as `evaluate` names them."""
    folder.mkdir()
    pictures: list[EvaluatedPicture] = []
    for number, prompt in enumerate(PROMPTS):
        for seed in (1, 2):
            path = folder / f"{number}-{seed:05d}.png"
            Image.new("RGB", (8, 8), (level, level, level)).save(path)
            pictures.append(EvaluatedPicture(path, prompt, ""))
    return pictures


def vectors(seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)), dim=-1)


def drift_numbers(*arguments: Any) -> Numbers:
    return numbers_of(drift_values(*arguments))


def quality_numbers(*arguments: Any) -> Numbers:
    return numbers_of(quality_values(*arguments))


def test_the_drift_of_a_lora_that_changes_nothing_is_exactly_0(tmp_path: Path) -> None:
    base, same = draw(tmp_path / "base", 100), draw(tmp_path / "same", 100)
    numbers = drift_numbers(same, vectors(), base, vectors(), "garp")
    for interval in numbers.values():
        assert interval is not None
        assert (interval.mean, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_drift_is_that_of_prompts_without_the_trigger(tmp_path: Path) -> None:
    base, moved = draw(tmp_path / "base", 100), draw(tmp_path / "moved", 151)
    first, second = vectors(1), vectors(2)
    numbers = drift_numbers(moved, second, base, first, "garp")
    assert numbers["drift_pixels"] is not None
    assert numbers["drift_pixels"].mean == pytest.approx(51 / 255)
    assert numbers["drift_features"] is not None
    # the first two pictures have the trigger
    cosines = (first[2:] * second[2:]).sum(-1)
    assert numbers["drift_features"].mean == pytest.approx(float(1 - cosines.mean()), abs=1e-6)
    # a prompt with the trigger written out counts as one with it
    assert drift_numbers(moved, second, base, first, "photo of")["drift_pixels"] is not None
    assert drift_numbers(moved[:4], second[:4], base, first, "photo")["drift_pixels"] is None


def test_likeness_and_copying_are_those_of_prompts_with_the_trigger(tmp_path: Path) -> None:
    pictures = draw(tmp_path / "pictures", 100)
    likeness = torch.tensor([0.8, 0.9, 0.1, 0.1, 0.2, 0.2])
    text = torch.tensor([0.3, 0.3, 0.6, 0.6, float("nan"), float("nan")])
    numbers = quality_numbers(pictures, {"likeness": likeness, "text": text}, "garp")
    assert numbers["likeness"] is not None
    assert numbers["likeness"].mean == pytest.approx(0.85)
    assert 0.8 <= numbers["likeness"].low < numbers["likeness"].high <= 0.9 + 1e-6
    assert numbers["text"] is not None
    assert numbers["text"].mean == pytest.approx(0.45)


def test_in_a_folder_of_pictures_all_are_about_the_concept(tmp_path: Path) -> None:
    pictures = [EvaluatedPicture(Path(f"{i}.png"), "", "") for i in range(3)]
    numbers = quality_numbers(pictures, {"copying": torch.tensor([0.1, 0.2, 0.3])}, "")
    assert numbers["copying"] is not None
    assert numbers["copying"].mean == pytest.approx(0.2)


def likeness(*rows: tuple[float, ...]) -> Values:
    return Values(tuple(rows))


def test_loras_are_ranked_by_paired_differences() -> None:
    """Prompts differ much more from each other than the LoRAs do, so that the intervals of the means overlap."""
    best = likeness((0.9, 0.91), (0.5, 0.52), (0.7, 0.69), (0.8, 0.82))
    worse = likeness((0.87, 0.88), (0.48, 0.49), (0.66, 0.65), (0.77, 0.8))
    noise = likeness((0.95, 0.87), (0.45, 0.56), (0.72, 0.66), (0.79, 0.82))
    ranking = rank("likeness", {"worse": worse, "noise": noise, "best": best})
    assert ranking is not None
    assert (ranking.order, ranking.ties) == (("best", "noise", "worse"), ("noise",))
    lead = advantage("likeness", best, worse)
    assert lead is not None
    assert lead.mean == pytest.approx(0.03, abs=0.005)

    # of copying, the lowest is the best
    reverse = rank("copying", {"worse": best, "best": worse})
    assert reverse is not None
    assert (reverse.best, reverse.ties) == ("best", ())


def test_loras_that_were_measured_on_other_prompts_are_compared_by_their_intervals() -> None:
    first, other = likeness((0.9, 0.8), (0.7, 0.75)), likeness((0.85, 0.8), (0.7, 0.7), (0.72, 0.71))
    far = likeness((0.1, 0.1), (0.1, 0.12), (0.1, 0.1))
    assert advantage("likeness", first, other) is None
    ranking = rank("likeness", {"first": first, "other": other, "far": far})
    assert ranking is not None
    assert (ranking.best, ranking.ties) == ("first", ("other",))
    assert rank("likeness", {"nothing": likeness((math.nan,))}) is None


def test_a_number_whose_target_is_0_is_best_nearest_to_0() -> None:
    """A loss of class images that fell by half has drifted as well."""
    moved = Values(((-0.5, -0.52), (-0.48, -0.5)))
    still = Values(((0.0, 0.0), (0.0, 0.0)))
    higher = Values(((0.2, 0.22), (0.18, 0.21)))
    ranking = rank("drift_loss", {"moved": moved, "higher": higher, "still": still})
    assert ranking is not None
    assert ranking.order == ("still", "higher", "moved")
    assert ranking.ties == ()
    lead = advantage("drift_loss", higher, moved)
    assert lead is not None
    assert lead.mean == pytest.approx(0.2975)
    mirrored = rank("drift_loss", {"below": moved, "above": moved.scaled(-1)})
    assert mirrored is not None
    assert len(mirrored.ties) == 1


def test_values_survive_a_file() -> None:
    values = Values(((0.25, math.nan), (0.5,)), less=((0.125,),))
    read = values_from_json(values.to_json())
    assert read is not None
    assert read.interval() == values.interval()
    assert math.isnan(read.rows[0][1])
    for damaged in (None, [], {"rows": 3}, {"rows": [["a"]]}, {"rows": [[1.0]], "less": 3}):
        assert values_from_json(damaged) is None


def test_the_gap_of_two_groups_of_images_has_the_interval_of_both() -> None:
    gap = Values(((0.0,), (0.1,)), less=((-0.4,), (-0.2,))).interval()
    assert gap is not None
    assert gap.mean == pytest.approx(0.35)
    assert gap.low == pytest.approx(0.2)
    assert gap.high == pytest.approx(0.5)


def test_every_number_says_what_it_means() -> None:
    assert all(kind.label and kind.meaning for kind in NUMBERS.values())
