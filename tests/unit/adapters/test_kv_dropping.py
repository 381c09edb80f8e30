"""Mix-of-Show's dropping of the LoRA on keys and values of cross-attention: a rule with module dropout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorasmith.adapters.layer import Adapted
from lorasmith.adapters.lora import LoRA
from lorasmith.training.config import TrainConfig, load_config
from lorasmith.training.run import Run
from lorasmith.training.setup.build import build_run
from lorasmith.training.step.batches import micro_batches, rank_share

GARP = Path(__file__).parents[3] / "src/lorasmith/assets/garp"
RULE = {"layers": "unet.*.attn2.to_[kv]", "module_dropout": 0.3}


def config(tmp_path: Path, **adapter: Any) -> TrainConfig:
    table = {
        "base": "tiny-sd",
        "output": str(tmp_path / "run"),
        "steps": 4,
        "data": {"images": str(GARP), "part": [0, 2], "resolution": 64, "batch_size": 2},
        "adapter": {"kind": "lora", "rank": 2, "layers": "attention", **adapter},
    }
    return load_config(table)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return build_run(config(tmp_path, overrides=[RULE]))


def test_the_rule_is_of_these_layers_alone(run: Run) -> None:
    rates = {name: a.dropout.module for name, a in run.adapters.adapters.items()}
    dropping = {name for name, rate in rates.items() if rate == 0.3}
    assert len(dropping) == 2 * 16
    assert all(".attn2.to_k" in name or ".attn2.to_v" in name for name in dropping)
    assert {rate for name, rate in rates.items() if name not in dropping} == {0.0}
    assert all(a.rank == 2 for a in run.adapters.adapters.values())


def test_a_rule_keeps_the_other_settings() -> None:
    lora = LoRA(rank=4, alpha=2.0, dropout=0.1, overrides=[{"layers": "a.*", "module_dropout": 0.5}])  # type: ignore[list-item]
    own, rate = lora.for_layer("a.b")
    assert (own.module_dropout, own.dropout, own.rank, own.alpha, rate) == (0.5, 0.1, 4, 2.0, 1.0)  # type: ignore[attr-defined]
    assert lora.for_layer("b.a")[0].module_dropout == 0


def sitting_out(run: Run, step: int) -> set[str]:
    """The adapters that a step leaves out."""
    run.adapters.train()
    plans = run.dataset.epoch(0)
    next(iter(micro_batches(run, rank_share(plans), step)))
    found = set()
    for name, adapter in run.adapters.adapters.items():
        layer = next(m for m in run.family.unet.modules() if isinstance(m, Adapted) and adapter in list(m.adapters))
        if not layer.active():
            found.add(name)
    return found


def test_which_sit_out_follows_from_the_step(run: Run) -> None:
    steps = [sitting_out(run, step) for step in range(6)]
    assert steps[0] == sitting_out(run, 0)
    assert len({frozenset(s) for s in steps}) == 6
    counts = [len(s) for s in steps]
    assert 0.15 < sum(counts) / (6 * 32) < 0.45
    apart = [name for s in steps for name in s if name.endswith("to_k") and name[:-1] + "v" not in s]
    assert apart, "keys and values sit out apart"
    run.adapters.eval()
    assert all(a.skip() is False for a in run.adapters.adapters.values())


@pytest.mark.parametrize(
    ("adapter", "graphed"), [({}, True), ({"module_dropout": 0.1}, False), ({"overrides": [RULE]}, False)]
)
def test_a_step_with_other_adapters_each_time_is_no_graph(tmp_path: Path, adapter: Any, graphed: bool) -> None:
    """A captured step would leave out the same ones for ever."""
    assert build_run(config(tmp_path, **adapter)).adapters.graph_safe is graphed
