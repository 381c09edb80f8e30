"""Where a process stands among the ranks, and which samples are its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorasmith.core.errors import LorasmithError
from lorasmith.core.launch import Launch, find_launch, first_node
from lorasmith.data.batch import BatchPlan, PlannedView
from lorasmith.training.step.batches import rank_share
from lorasmith.training.step.distributed import Ranks

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu01", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_JOB_ID": "120077",
    "SLURM_NTASKS": "4",
}


def test_launchers_are_read() -> None:
    assert find_launch(TORCHRUN) == Launch(5, 8, 1, "gpu01", 29500)
    place = find_launch(SRUN)
    assert (place.index, place.count, place.local, place.address) == (3, 4, 1, "gpu03")
    assert 1024 < place.port < 65536
    assert find_launch(SRUN | {"MASTER_ADDR": "other", "MASTER_PORT": "2000"}).port == 2000
    assert find_launch(SRUN | TORCHRUN).index == 5, "torchrun under srun knows better"


def test_who_was_not_launched_is_alone() -> None:
    batch_script = {k: v for k, v in SRUN.items() if not k.startswith("SLURM_STEP")} | {"SLURM_PROCID": "0"}
    for env in ({}, {"RANK": "1"}, {"RANK": "0", "WORLD_SIZE": "1"}, batch_script):
        assert find_launch(env) == Launch()


@pytest.mark.parametrize("change", [{"RANK": "8"}, {"RANK": "x"}, {"MASTER_ADDR": ""}, {"MASTER_PORT": ""}])
def test_contradictions_are_told(change: dict[str, str]) -> None:
    with pytest.raises(LorasmithError):
        find_launch(TORCHRUN | change)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu03", "gpu03"),
        ("gpu[03-05,9],cpu1", "gpu03"),
        ("a-1,a-2", "a-1"),
        ("n[7,9]-ib", "n7-ib"),
        ("rack[1-2]n[01-04]", "rack1n01"),
        ("", ""),
    ],
)
def test_the_first_node_of_a_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


def plans_of(sizes: Sequence[int]) -> list[BatchPlan]:
    numbers = iter(range(sum(sizes)))
    return [BatchPlan(tuple(PlannedView(next(numbers), 0, 0) for _ in range(n)), (64, 64)) for n in sizes]


@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5), count=st.integers(1, 9))
def test_shares_are_all_samples_once_in_their_places(sizes: list[int], count: int) -> None:
    plans = plans_of(sizes)
    shares = [rank_share(plans, i, count) for i in range(count)]
    taken = [[(first + k, item.record) for first, p in share for k, item in enumerate(p.views)] for share in shares]
    assert list(chain.from_iterable(taken)) == [(i, i) for i in range(sum(sizes))]
    lengths = [len(t) for t in taken]
    assert max(lengths) - min(lengths) <= 1
    assert taken[0]
    wholes = {item.record: number for number, plan in enumerate(plans) for item in plan.views}
    for _, part in chain.from_iterable(shares):
        assert len({wholes[item.record] for item in part.views}) == 1, "a part is of one batch, so of one bucket"


def test_a_run_of_one_meets_nobody() -> None:
    alone, loss = Ranks(), torch.tensor([2.0])
    assert alone.first
    assert alone.sum_gradients([], loss) is loss
    assert alone.any(True)
    assert not alone.any(False)
    alone.require_same({"step": 1})
    alone.wait()


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
def test_each_rank_has_a_gpu_of_its_own() -> None:
    assert [Ranks(Launch(i, 4, i % 2)).device("auto") for i in (2, 3)] == [torch.device("cuda", i) for i in (0, 1)]
    with pytest.raises(LorasmithError, match="only 2 GPUs"):
        Ranks(Launch(2, 4, 2)).device("cuda")
    with pytest.raises(LorasmithError, match="one GPU"):
        Ranks(Launch(1, 4, 1)).device("cuda:1")
    assert Ranks(Launch(1, 4, 1)).device("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("two_gpus")
def test_a_task_that_sees_one_gpu_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert Ranks(Launch(3, 4, 3)).device("auto") == torch.device("cuda", 0)
