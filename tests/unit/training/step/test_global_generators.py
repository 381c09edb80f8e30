"""Torch's global generators: the step seeds them for dropout, puts them back, and nothing else touches them."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lorasmith.core.rng import restored_global_generators
from lorasmith.training.config import load_config
from lorasmith.training.setup.build import build_run
from lorasmith.training.step.loop import fit

SOURCE = Path(__file__).parents[4] / "src" / "lorasmith"
SEEDING = {"torch.manual_seed", "torch.random.manual_seed", "torch.cuda.manual_seed", "torch.cuda.manual_seed_all"}
GLOBAL_STATE = {"torch.seed", "torch.set_rng_state", "random.seed", "np.random.seed", "numpy.random.seed"}


def test_training_with_dropout_leaves_the_global_generator_as_it_was(
    pictures: Callable[..., Path], tmp_path: Path
) -> None:
    table = {
        "base": "tiny-sd",
        "output": str(tmp_path / "run"),
        "steps": 2,
        "data": {"images": str(pictures(2)), "resolution": 64},
        "adapter": {"kind": "lora", "rank": 2, "dropout": 0.5, "layers": "attention"},
        "log": {"tensorboard": False},
    }
    run = build_run(load_config(table))
    torch.manual_seed(12)
    before = torch.get_rng_state()
    fit(run)
    run.events.close()
    run.adapters.detach()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_generator_is_put_back_after_an_error() -> None:
    before = torch.get_rng_state()
    try:
        with restored_global_generators(torch.device("cpu")):
            torch.manual_seed(99)
            raise ValueError
    except ValueError:
        pass
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_only_micro_batches_and_new_modules_seed_the_global_generators() -> None:
    calls: set[tuple[str, str]] = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in SEEDING | GLOBAL_STATE:
                calls.add((path.relative_to(SOURCE).as_posix(), ast.unparse(node.func)))
    assert calls == {("training/step/batches.py", "torch.manual_seed"), ("core/rng.py", "torch.manual_seed")}
    uses = [path for path in SOURCE.rglob("*.py") if "seeded_global_generators(" in path.read_text(encoding="utf-8")]
    assert sorted(path.relative_to(SOURCE).as_posix() for path in uses) == ["conditions/attach.py", "core/rng.py"]
