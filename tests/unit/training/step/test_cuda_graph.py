"""What a graph needs of a batch: all of its tensors by name, and a copy that shares none of them."""

from __future__ import annotations

import torch

from lorasmith.data.batch import Batch
from lorasmith.families.base import LatentDistribution
from lorasmith.families.conditioning import Conditioning
from lorasmith.training.step.cuda_graph import clone_tensors, tensors_of


def make_batch() -> Batch:
    sizes = torch.zeros(2, 2)
    return Batch(
        latents=LatentDistribution(torch.randn(2, 4, 8, 8), torch.rand(2, 4, 8, 8)),
        pixels=None,
        captions=["a", "b"],
        conditioning=Conditioning({"context": torch.randn(2, 77, 16), "pooled": torch.randn(2, 16)}),
        loss_weight=torch.ones(2),
        mask=None,
        original=sizes,
        crop=sizes,
        target=sizes,
        names=["a.png", "b.png"],
    )


def test_every_tensor_of_a_batch_has_a_path() -> None:
    batch = make_batch()
    tensors = tensors_of(batch)
    assert set(tensors) == {
        "latents/mean",
        "latents/std",
        "conditioning/tensors/context",
        "conditioning/tensors/pooled",
        "loss_weight",
        "original",
        "crop",
        "target",
    }
    assert batch.conditioning is not None
    assert tensors["conditioning/tensors/pooled"] is batch.conditioning["pooled"]


def test_a_copy_shares_no_tensor() -> None:
    batch = make_batch()
    copy = tensors_of(clone_tensors(batch))
    for path, tensor in tensors_of(batch).items():
        assert torch.equal(copy[path], tensor), path
        assert copy[path].data_ptr() != tensor.data_ptr(), path
