"""Attention regularisation: the formulas again in float64, any size, with and without gradient checkpointing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lorasmith.concepts import Vocabulary
from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.families.stable_diffusion.attention_maps import CrossAttentionMaps, record_maps
from lorasmith.training.step.objectives.terms.attention_regularisation import AttentionRegularisation as Part


@pytest.fixture(scope="module")
def family() -> Family:
    return load("tiny-sd", dtype=torch.float32)


def vocabulary_of(*concepts: int) -> Vocabulary:
    """Words <0>, <1> ... of one vector each, of these concepts."""
    vectors = [{"te": torch.zeros(1, 8)} for _ in concepts]
    return Vocabulary([f"<{i}>" for i in range(len(concepts))], vectors, 1000, concepts=concepts)


ONE: Vocabulary = vocabulary_of(0, 0, 0)
MODEL: Any = SimpleNamespace(vocabulary=ONE)


def words_of(*rows: list[int]) -> Tensor:
    """Rows of new words by place, in texts of 77 tokens."""
    found = torch.zeros(len(rows), 77, dtype=torch.int64)
    for i, row in enumerate(rows):
        found[i, : len(row)] = torch.tensor(row)
    return found


def test_a_concept_said_twice_in_a_row_is_two_mentions() -> None:
    columns = Part().columns(words_of([0, 1, 2, 1, 2]), ONE)
    assert columns[0, 0].nonzero().flatten().tolist() == [1, 3]
    assert columns[0, 1].nonzero().flatten().tolist() == [2, 4]


def test_mentions_are_adjectives_and_a_subject() -> None:
    columns = Part().columns(words_of([0, 1, 2, 0, 1, 2, 0], [0, 3, 0], [0, 0]), ONE)
    assert columns[0, 0].nonzero().flatten().tolist() == [1, 4]
    assert columns[0, 1].nonzero().flatten().tolist() == [2, 5]
    assert columns[0].sum(-1).tolist() == [1, 1]
    assert columns[1, 0].sum() == 0
    assert columns[1, 1].nonzero().flatten().tolist() == [1]
    assert columns[2].sum() == 0


def batch_of(mask: Tensor | None, *masked: int) -> Any:
    """What the part asks of a batch."""
    own = None if mask is None else torch.tensor(masked or [1] * len(mask)).float()
    return SimpleNamespace(subject=mask, masked=own, concept_masks=None, concept_masked=None, concept_names=())


@pytest.mark.parametrize("maximum", ["sample", "batch"])
@pytest.mark.parametrize("full", [True, False])
def test_the_terms_are_those_of_the_paper(full: bool, maximum: Any) -> None:
    torch.manual_seed(0)
    part = Part(weight=0.3, full_identity=full, maximum=maximum)
    maps = CrossAttentionMaps(part.columns(words_of([0, 1, 2], [0, 1, 2], [0]), ONE), (8, 6))
    for height, width in ((8, 6), (4, 3), (2, 2)):
        maps._by_pixels[height * width] = [torch.rand(3, height * width, 2) for _ in range(2)]
    mask = (torch.rand(3, 1, 8, 6) > 0.5).float()
    found = part(maps, batch_of(mask), MODEL)

    wanted = 0.0
    for (height, width), pixels in (((8, 6), 48), ((4, 3), 12), ((2, 2), 4)):
        a = np.mean([m.double().numpy() for m in maps._by_pixels[pixels]], 0)[:2].reshape(2, height, width, 2)
        rows = (np.arange(height) * 8 // height)[:, None]
        m = mask[:2, 0].double().numpy()[:, rows, np.arange(width) * 6 // width]
        scaled = a / (a.max((0, 1, 2)) if maximum == "batch" else a.max((1, 2), keepdims=True))
        if m.min() == 0:
            wanted += scaled[..., 0][m == 0].mean()
        if full:
            wanted += ((scaled[..., 1] - m) ** 2).mean()
        elif m.min() == 0:
            wanted += scaled[..., 1][m == 0].mean()
    if maximum == "sample":
        assert float(found) == pytest.approx(0.3 * wanted, rel=1e-5)
    else:  # the third sample, without words, has no part in the maximum either
        maps._by_pixels = {
            n: [f.clone().index_fill_(0, torch.tensor([2]), 0) for f in v] for n, v in maps._by_pixels.items()
        }
        assert float(part(maps, batch_of(mask), MODEL)) == pytest.approx(0.3 * wanted, rel=1e-5)


def test_nothing_to_say_is_zero_not_nan() -> None:
    part = Part()
    maps = CrossAttentionMaps(part.columns(words_of([0, 1]), ONE), (4, 4))
    maps._by_pixels[16] = [torch.rand(1, 16, 2)]
    assert float(part(maps, batch_of(None), MODEL)) == 0
    whole = part.model_copy(update={"full_identity": False})
    assert float(whole(maps, batch_of(torch.ones(1, 1, 4, 4)), MODEL)) == 0


@pytest.mark.parametrize("maximum", ["sample", "batch"])
@pytest.mark.parametrize("full", [True, False])
def test_an_image_without_a_mask_does_not_count(full: bool, maximum: Any) -> None:
    torch.manual_seed(0)
    part = Part(full_identity=full, maximum=maximum)
    maps, alone = (CrossAttentionMaps(part.columns(words_of(*[[0, 1, 2]] * n), ONE), (4, 4)) for n in (2, 1))
    values = torch.rand(2, 16, 2) * torch.tensor([0.5, 1.0])[:, None, None]
    maps._by_pixels[16], alone._by_pixels[16] = [values], [values[:1]]
    mask = torch.cat([(torch.rand(1, 1, 4, 4) > 0.5).float(), torch.ones(1, 1, 4, 4)])
    expected = float(part(alone, batch_of(mask[:1]), MODEL))
    assert float(part(maps, batch_of(mask, 1, 0), MODEL)) == pytest.approx(expected, rel=1e-6)
    assert float(part(maps, batch_of(mask, 0, 0), MODEL)) == 0


def test_concepts_side_by_side_are_mentions_of_their_own() -> None:
    both = vocabulary_of(0, 0, 1, 1)  # <a1> <a2> <b1> <b2>
    columns = Part().columns(words_of([0, 1, 2, 3, 4, 0, 3, 4, 1, 2]), both)
    assert [c.nonzero().flatten().tolist() for c in columns[0]] == [[1, 8], [2, 9], [3, 6], [4, 7]]
    single = Part().columns(words_of([0, 1, 2]), vocabulary_of(0, 1))  # <a> <b>: two subjects, no adjective
    assert [c.nonzero().flatten().tolist() for c in single[0]] == [[], [1], [], [2]]
    assert [c.nonzero().flatten().tolist() for c in Part().columns(words_of([0, 1, 2]), ONE)[0]] == [[1], [2]]


@pytest.mark.parametrize("full", [True, False])
def test_each_concept_has_its_mask(full: bool) -> None:
    """Two images: the first has both concepts, the second one of them, by the image's own mask."""
    torch.manual_seed(0)
    part, vocabulary = Part(weight=1, full_identity=full), vocabulary_of(0, 0, 1)
    maps = CrossAttentionMaps(part.columns(words_of([0, 1, 2, 3], [0, 3]), vocabulary), (4, 4))
    maps._by_pixels[16] = [torch.rand(2, 16, 4)]
    own, first, second = (torch.rand(2, 1, 4, 4) > 0.5 for _ in range(3))
    masks = torch.cat([first, second], 1).float()
    masks[1, 1] = own[1, 0]  # what the data set puts there where an image has no mask of the concept
    batch = SimpleNamespace(
        subject=own.float(),
        masked=torch.tensor([0.0, 1.0]),
        concept_masks=masks,
        concept_masked=torch.tensor([[1.0, 0.0], [1.0, 1.0]]),
        concept_names=("<1>", "<2>"),
    )
    model: Any = SimpleNamespace(vocabulary=vocabulary)
    found = float(part(maps, batch, model))  # type: ignore[arg-type]

    a = maps._by_pixels[16][0].double().numpy().reshape(2, 4, 4, 4)  # sample, h, w, kind
    a = a / a.max((1, 2), keepdims=True)
    # the first image's second concept is known by nothing; the second image does not say the first concept
    outside = first[0, 0].numpy() == 0
    adjective = a[0, :, :, 0][outside].mean()
    pairs = [(a[0, :, :, 1], first[0, 0].numpy()), (a[1, :, :, 3], own[1, 0].numpy())]
    if full:
        subject = np.mean([((m - mask) ** 2).mean() for m, mask in pairs])
    else:
        subject = np.concatenate([m[mask == 0] for m, mask in pairs]).mean()
    assert found == pytest.approx(adjective + subject, rel=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (24, 8), (9, 14)])
def test_maps_are_attention_and_checkpointing_changes_nothing(size: tuple[int, int], family: Any) -> None:
    torch.manual_seed(1)
    x, t = torch.randn(2, 4, *size), torch.tensor([10, 500])
    columns = Part().columns(words_of([0, 1, 2], [0, 0, 1, 2]), ONE)
    results = []
    for checkpointing in (False, True):
        family.checkpoint_gradients(checkpointing)
        context = torch.randn(2, 77, 128, generator=torch.Generator().manual_seed(2)).requires_grad_()
        with record_maps(family.unet, columns, size) as maps:
            out = family.unet(x, t, context)
        found = maps.by_size()
        assert sum(len(m) for m in maps._by_pixels.values()) == 16
        assert {n.shape[2:] for n in found.values()} == {torch.Size(s) for s in found}
        (out.square().mean() + sum(m.square().sum() for m in found.values())).backward()
        results.append((out.detach(), found, context.grad))
    family.checkpoint_gradients(False)
    plain = family.unet(x, t, context.detach())
    assert torch.allclose(results[0][0], plain, atol=1e-6)  # watching changes no output
    assert torch.equal(results[0][2], results[1][2])
    for size_, found in results[0][1].items():
        assert torch.equal(found, results[1][1][size_])
        assert float(found.detach().flatten(2).min()) > 0
        assert float(found.detach().max()) < 1
