"""Fewer ranks: the best that there are, and as much as was asked for."""

from __future__ import annotations

import pytest
import torch
from changes import deltas, distance, same
from safetensors.torch import load_file

from lorasmith.adapters.dora import DoRA
from lorasmith.adapters.loha import LoHa
from lorasmith.adapters.lora import LoRA
from lorasmith.core.errors import LorasmithError
from lorasmith.files.lowrank import Truncation
from lorasmith.files.resize import resize

LINEAR = ("unet.mid_block.*.attn1.*", "te*.q_proj")


def best(exact: dict[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    """Each change cut by a plain SVD in float64."""
    found = {}
    for name, change in exact.items():
        u, s, v = torch.linalg.svd(change.flatten(1).double(), full_matrices=False)
        found[name] = ((u[:, :rank] * s[:rank]) @ v[:rank]).float().view_as(change)
    return found


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
@pytest.mark.parametrize(
    "config", [LoRA(rank=6, alpha=3, layers=LINEAR), LoHa(rank=2, layers=LINEAR)], ids=["lora", "loha"]
)
def test_a_rank_is_the_best_of_that_rank(config, kind, make, bases, families, out) -> None:
    path, _ = make(config, kind)
    exact = deltas(families(kind), path)
    report = resize(path, Truncation(rank=2), out(), base=bases(kind))
    found = deltas(families(kind), report.file)
    same(found, best(exact, 2), 1e-4)
    assert report.error == pytest.approx(distance(found, exact), rel=1e-3)
    assert set(report.ranks) == {2}


def test_more_ranks_than_there_are_change_nothing(make, bases, families, out) -> None:
    path, _ = make(LoRA(rank=4, layers=("unet.mid_block.*",), conv_rank=2))
    report = resize(path, Truncation(rank=64), out(), base=bases())
    same(deltas(families(), report.file), deltas(families(), path), 1e-5)
    assert report.error < 1e-5
    assert max(report.ranks) == 4


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("share", [0.6, 0.95])
def test_a_share_is_kept(share: float, per_layer: bool, make, bases, families, out) -> None:
    path, _ = make(LoRA(rank=8, layers=LINEAR))
    exact = deltas(families(), path)
    report = resize(path, Truncation(energy=share, per_layer=per_layer), out("e.safetensors"), base=bases())
    assert distance(deltas(families(), report.file), exact) ** 2 <= 1 - share + 1e-5
    root = resize(path, Truncation(frobenius=share**0.5, per_layer=per_layer), out("f.safetensors"), base=bases())
    assert root.ranks == report.ranks
    if not per_layer:
        less = max(report.ranks) - 1
        assert distance(best(exact, less), exact) ** 2 > 1 - share  # one rank fewer would be too few


def test_the_scale_and_what_the_file_says_stay(make, bases, out) -> None:
    path, _ = make(
        LoRA(rank=8, alpha=4, layers=LINEAR), ss_network_dim="8", ss_network_alpha="4.0", ss_tag_frequency="{}"
    )
    report = resize(path, Truncation(rank=2), out(), base=bases())
    tensors = load_file(report.file)
    assert {float(t) for n, t in tensors.items() if n.endswith(".alpha")} == {1.0}
    from lorasmith.formats.read import load

    said = load(report.file).metadata
    assert (said["ss_network_dim"], said["ss_network_alpha"]) == ("2", "1")
    assert said["ss_tag_frequency"] == "{}"
    assert "resized by rank 2" in said["lorasmith.history"]


def test_what_has_no_ranks_of_its_own_is_refused_with_the_way_out(make, bases, out) -> None:
    path, _ = make(DoRA(rank=2, layers=LINEAR))
    with pytest.raises(LorasmithError, match="convert --to portable --rank"):
        resize(path, Truncation(rank=1), out(), base=bases())
    assert not out().path.exists()


def test_a_file_that_is_there_is_not_replaced(make, bases, out) -> None:
    path, _ = make(LoRA(rank=2, layers=LINEAR))
    out().path.write_bytes(b"mine")
    with pytest.raises(LorasmithError, match="--overwrite"):
        resize(path, Truncation(rank=1), out(), base=bases())
    assert out().path.read_bytes() == b"mine"
