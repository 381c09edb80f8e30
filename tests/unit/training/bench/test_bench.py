"""The benchmark: what is counted, what is refused, and the order of its turns."""

from __future__ import annotations

import gc
import json
import weakref
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from typer.testing import CliRunner

from lorasmith.cli.main import app
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.families.folder_parts import read_part_headers
from lorasmith.families.transformer_models import random_base
from lorasmith.training.bench import measure
from lorasmith.training.bench.contenders import OURS, contender_of, peers, peft_compiled
from lorasmith.training.bench.flops import flops_of_step
from lorasmith.training.bench.measure import Case, Turns, measure_group
from lorasmith.training.bench.run import BenchOptions, list_cases, run_bench
from lorasmith.training.bench.table import HEADS, markdown
from lorasmith.training.bench.worker import Worker, answer
from lorasmith.training.bench.workload import Workload, make_base, make_images

COMMON: dict[str, Any] = {
    "base": "tiny-sd",
    "images": "",
    "cache": "",
    "resolution": 64,
    "batch": 1,
    "precision": "fp32",
    "device": "cpu",
}


def workload(**changes: Any) -> Workload:
    settings: dict[str, Any] = {"adapter": {"kind": "lora", "rank": 4, "layers": "attention"}}
    return Workload(**(COMMON | settings | changes))


@pytest.mark.slow
def test_operations_grow_with_the_batch_and_the_pixels() -> None:
    one = flops_of_step(workload())
    assert flops_of_step(workload(batch=3)) == 3 * one
    # linear in the pixels, but for attention, which is quadratic, and the text, which has no pixels
    assert 3.5 * one < flops_of_step(workload(resolution=128)) < 8 * one


@pytest.mark.slow
def test_operations_of_the_real_networks_are_those_that_were_counted_by_hand(tmp_path: Path) -> None:
    """1.7245 TFLOP for SD 1.5 at 512 px, rank 16."""
    base = make_base("sd1", tmp_path)
    adapter = {"kind": "lora", "rank": 16, "layers": "attention"}
    assert flops_of_step(workload(base=base, resolution=512, adapter=adapter)) == pytest.approx(1.7245e12, rel=0.01)


@pytest.mark.slow
def test_a_worker_builds_our_step_and_counts_it(tmp_path: Path) -> None:
    images = make_images(tmp_path, 64, 2)
    table = vars(workload(images=images, cache=str(tmp_path / "cache"), base=make_base("tiny-sd", tmp_path)))
    worker = Worker()
    assert answer(worker, {"do": "build", "contender": OURS, "workload": table})["first_step_s"] > 0
    assert answer(worker, {"do": "warm_up"}) == {}
    assert answer(worker, {"do": "steps", "count": 2})["s"] > 0
    assert answer(worker, {"do": "memory"})["peak_gib"] > 0


def test_a_worker_answers_a_mistake_and_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    found = answer(worker, {"do": "build", "contender": "nobody", "workload": vars(workload())})
    assert found["mistake"]
    assert "nobody" in found["error"]

    worker.workload = workload()
    monkeypatch.setattr(worker, "step", lambda: 1 / 0, raising=False)
    assert answer(worker, {"do": "steps", "count": 1}) == {
        "error": "ZeroDivisionError: division by zero",
        "mistake": False,
    }


def test_who_is_known() -> None:
    assert peers() == ["diffusers", "peft", "peft-compiled"]
    assert all(contender_of(name).TITLE for name in [OURS, *peers()])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"adapters": ("lorra",)}, 'did you mean "lora"'),
        ({"against": ("pfet",)}, 'did you mean "peft"'),
        ({"resolution": 100}, "multiple of 64"),
        ({"base": "no-such-base"}, "sdxl"),
        ({"against": ("peft",), "layers": "all"}, "attention"),
        ({"memory": (9,)}, "memory"),
        ({"precision": "fp8"}, "bf16"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is(
    tmp_path: Path, options: dict[str, Any], word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorasmith.training.bench.run.measure_group", lambda *_: pytest.fail("measured"))
    settings: dict[str, Any] = {"base": "tiny-sd", "device": "cpu", "work": tmp_path, "resolution": 64}
    with pytest.raises(LorasmithError, match=word):
        run_bench(BenchOptions(**(settings | options)), Progress())


class FakeProcess:
    """A worker that notes its orders and answers at once."""

    orders: list[tuple[str, str]]

    def __init__(self, case: Case, log: Path) -> None:
        self.case = case
        self.figures = measure.Figures(case.label, case.workload.batch)

    def build(self) -> None:
        self.orders.append((self.case.label, "build"))

    def built(self) -> None:
        self.figures.start_up = 1.0
        if self.case.contender == "peft":
            self.figures.error = "out of memory"

    def ask(self, **order: Any) -> dict[str, Any]:
        self.orders.append((self.case.label, order["do"]))
        return {"tflops": 2.0, "tflop": 0.5}

    def make_steps(self, count: int) -> None:
        self.orders.append((self.case.label, "steps"))
        if not self.figures.error:
            self.figures.steps.append(0.5 if self.case.contender == OURS else 1.0)
            self.figures.cpu.append(1.0)

    def finish(self) -> None: ...

    def close(self) -> None:
        self.orders.append((self.case.label, "close"))


def test_contenders_take_turns_and_a_failed_one_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeProcess.orders = []
    monkeypatch.setattr(measure, "WorkerProcess", FakeProcess)
    cases = list_cases(BenchOptions(against=("diffusers", "peft")), {**COMMON, "batch": 2})
    figures, products = measure_group(cases, Turns(1, 2, tmp_path / "lock"), tmp_path, Progress())
    assert products == [2.0, 2.0]
    labels = [label for label, order in FakeProcess.orders if order == "steps"]
    assert labels == ["ours lora", "diffusers", "peft", "diffusers", "peft", "ours lora"]
    assert [label for label, order in FakeProcess.orders if order == "close"] == ["ours lora", "diffusers", "peft"]
    assert [row.images_a_second for row in figures] == [4.0, 2.0, 0.0]
    assert figures[0].share(2.0) == 0.5


def test_a_captured_step_keeps_what_its_graph_works_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory was freed once, and the graph then read what was written over it."""

    class Step:
        def __call__(self) -> int:
            return 1

    for name in ("Stream", "current_stream", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: nullcontext())
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    step: Any = Step()
    alive = weakref.ref(step)
    replay = peft_compiled.captured(step)
    del step
    gc.collect()
    assert alive() is not None
    assert replay() == 1


def test_the_command_prints_a_table_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeProcess.orders = []
    monkeypatch.setattr(measure, "WorkerProcess", FakeProcess)
    arguments = ["bench", "--base", "tiny-sd", "--device", "cpu", "--resolution", "64", "--batch", "1"]
    arguments += ["--adapter", "lora,dora", "--memory", "0,2", "--work", str(tmp_path)]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out.json")])
    assert done.exit_code == 0, done.output
    assert "ours dora memory 2" in done.output
    written = json.loads((tmp_path / "out.json").read_text())
    assert [row["ratio"] for row in written["rows"]] == [1.0] * 4

    done = CliRunner().invoke(app, [*arguments, "--batch", "0"])
    assert done.exit_code == 2


def test_each_row_of_the_table_has_all_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeProcess.orders = []
    monkeypatch.setattr(measure, "WorkerProcess", FakeProcess)
    options = BenchOptions("tiny-sd", 64, (1,), device="cpu", against=("peft",), work=tmp_path)
    lines = markdown(run_bench(options, Progress())).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4
    assert {row.count("|") for row in rows} == {len(HEADS) + 1}
    assert "failed: out of memory" in rows[-1]


SMALL_FLUX: dict[str, Any] = {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "axes_dims_rope": [4, 6, 6],
}
SMALL_SD35: dict[str, Any] = {
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "caption_projection_dim": 64,
    "dual_attention_layers": [0],
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "smaller"), [("flux", SMALL_FLUX), ("sd35-medium", SMALL_SD35)])
def test_a_step_on_a_random_transformer_model_is_built_and_its_operations_are_counted(
    tmp_path: Path, name: str, smaller: dict[str, Any]
) -> None:
    """The text encoders and the VAE are of full size."""
    random_base.write(tmp_path / name, name, **smaller)
    table = vars(
        workload(
            images=make_images(tmp_path, 64, 1),
            cache=str(tmp_path / "cache"),
            base=str(tmp_path / name),
            precision="bf16",
        )
    )
    worker = Worker()
    assert answer(worker, {"do": "build", "contender": OURS, "workload": table})["first_step_s"] > 0
    one = answer(worker, {"do": "flops"})["tflop"]
    assert 0 < one < flops_of_step(workload(base=str(tmp_path / name), resolution=128)) / 1e12


def test_large_parts_of_a_random_base_are_files_that_the_loader_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_base, "SHARD", 50_000)
    config = dict(random_base.MODELS["flux"].transformer) | SMALL_FLUX
    folder = tmp_path / "transformer"
    model = random_base.empty_transformer("flux", config)
    random_base.write_part(folder, model, config, torch.bfloat16, torch.Generator().manual_seed(0))
    assert len(list(folder.glob("*.safetensors"))) > 3
    refs = read_part_headers(folder, "transformer")
    assert {name: ref.shape for name, ref in refs.items()} == {n: tuple(t.shape) for n, t in model.state_dict().items()}
