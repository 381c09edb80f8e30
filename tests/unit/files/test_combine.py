"""The weighted sum of files, exactly."""

from __future__ import annotations

import pytest
from changes import deltas, distance, same

from lorasmith.adapters.dora import DoRA
from lorasmith.adapters.full import Full
from lorasmith.adapters.loha import LoHa
from lorasmith.adapters.lora import LoRA
from lorasmith.core.errors import LorasmithError
from lorasmith.files.combine import combine
from lorasmith.files.lora import LoraInput

SOME, MORE = ("unet.mid_block.*.attn1.*",), ("unet.mid_block.*", "te*.q_proj")


def total(parts) -> dict:
    found: dict = {}
    for changes, strength in parts:
        for name, change in changes.items():
            found[name] = found.get(name, 0) + strength * change
    return found


@pytest.mark.slow_except("*-sd1")
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
@pytest.mark.parametrize(
    "other", [LoRA(rank=2, alpha=1, layers=MORE), LoHa(rank=2, layers=MORE), Full(layers=MORE)], ids=lambda c: c.kind
)
def test_the_sum_is_exact(other, kind, make, bases, families, out) -> None:
    (a, _), (b, _) = make(LoRA(rank=4, layers=SOME), kind), make(other, kind, seed=2)
    report = combine([LoraInput(a, 0.7), LoraInput(b, -0.5)], out(), base=bases(kind))
    wanted = total([(deltas(families(kind), a), 0.7), (deltas(families(kind), b), -0.5)])
    same(deltas(families(kind), report.file), wanted, 2e-6)
    assert report.error is None


def test_with_a_rank_it_is_the_best_of_that_rank(make, bases, families, out) -> None:
    (a, _), (b, _) = make(LoRA(rank=4, layers=SOME)), make(LoRA(rank=4, layers=SOME), seed=2)
    report = combine([LoraInput(a), LoraInput(b)], out(), base=bases(), rank=4)
    wanted = total([(deltas(families(), a), 1), (deltas(families(), b), 1)])
    assert report.error == pytest.approx(distance(deltas(families(), report.file), wanted), rel=1e-3)
    assert set(report.ranks) == {4}


def test_the_same_file_twice_is_twice_its_strength(make, bases, families, out) -> None:
    path, _ = make(LoRA(rank=2, layers=SOME))
    report = combine([LoraInput(path), LoraInput(path)], out(), base=bases(), rank=2)
    same(deltas(families(), report.file), total([(deltas(families(), path), 2)]), 1e-5)


def test_trigger_words_of_all_are_kept(make, bases, out) -> None:
    from lorasmith.formats.read import load

    said = {"modelspec.trigger_phrase": "cat"}
    (a, _), (b, _) = (
        make(LoRA(rank=2, layers=SOME), **said),
        make(LoRA(rank=2, layers=SOME), seed=2, **{"modelspec.trigger_phrase": "cat, dog"}),
    )
    report = combine([LoraInput(a), LoraInput(b)], out(), base=bases())
    assert load(report.file).metadata["modelspec.trigger_phrase"] == "cat, dog"


def test_what_cannot_be_added_is_refused(make, bases, out) -> None:
    (a, _), (xl, _), (dora, _) = (
        make(LoRA(rank=2, layers=SOME)), make(LoRA(rank=2, layers=SOME), "sdxl"), make(DoRA(rank=2, layers=SOME)),
    )  # fmt: skip
    for uses, words in (
        ([a], "two or more files"),
        ([a, xl], "it is for sdxl|no layer|does not fit"),
        ([a, dora], "convert --to diff"),
    ):
        with pytest.raises(LorasmithError, match=words):
            combine([LoraInput(path) for path in uses], out(), base=bases())
    assert not out().path.exists()
