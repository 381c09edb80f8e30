"""The examples of plug-ins: each is a file out of the package, and its TOML trains with it.

They run in a process of their own, so that their kinds are not registered in that of the other tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from answers import ROOT, Program
from PIL import Image
from safetensors.torch import load_file

EXAMPLES = ROOT / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.toml"))

SCRIPT = """
import json, sys
import lorasmith
from lorasmith.training.config import load_config

out, examples, names = sys.argv[1], sys.argv[2], sys.argv[3:]
small = ["views_per_image=1", "data.part=[0, 4]", "data.resolution=64", "log.tensorboard=false", "device=cpu"]
results = {}
for name in names:
    result = lorasmith.train(f"{examples}/{name}.toml", overrides=small, output=f"{out}/{name}")
    dump = load_config(result.folder / "config.toml").model_dump(mode="json")
    results[name] = {"file": str(result.file), "loss": result.loss, "config": dump}
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    path = [str(EXAMPLES), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


@pytest.fixture(scope="module")
def trained(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each TOML has trained, by its name."""
    out = tmp_path_factory.mktemp("examples")
    command = [sys.executable, "-c", SCRIPT, str(out), str(EXAMPLES), *NAMES]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def kinds_in(value: Any) -> set[str]:
    """Every `kind` in a config."""
    if isinstance(value, dict):
        return {str(value["kind"])} if "kind" in value and len(value) == 1 else kinds_of_table(value)
    return set().union(*(kinds_in(item) for item in value)) if isinstance(value, list) else set()


def kinds_of_table(table: dict[str, Any]) -> set[str]:
    own = {str(table["kind"])} if "kind" in table else set()
    return own.union(*(kinds_in(value) for value in table.values()))


def test_every_file_has_a_config_and_a_line_in_the_list() -> None:
    files = sorted(path.stem for path in EXAMPLES.glob("*.py"))
    assert files == NAMES
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for name in files:
        assert f"[{name}.py]({name}.py)" in readme
        assert f"lorasmith train examples/{name}.toml" in (EXAMPLES / f"{name}.toml").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("colours", "churned_ddim")])
def test_a_config_trains_with_its_kind(trained: dict[str, Any], name: str) -> None:
    assert name in kinds_of_table(trained[name]["config"])
    assert trained[name]["loss"] > 0
    assert Path(trained[name]["file"]).is_file()


@pytest.mark.slow
def test_the_encoder_of_the_condition_is_beside_an_ordinary_lora(trained: dict[str, Any]) -> None:
    file = Path(trained["layout"]["file"])
    encoder = load_file(file.with_name("layout.conditions.safetensors"))
    assert encoder["layout.last.1.weight"].shape == (64, 64, 1, 1)
    assert all(key.startswith(("lora_unet_", "lora_te_")) for key in load_file(file))


@pytest.mark.slow
def test_a_condition_is_resumed_bit_for_bit_and_steers_the_pictures(
    environment: dict[str, str], program: Program, tmp_path: Path
) -> None:
    small = ["views_per_image=2", "data.resolution=64", "data.batch_size=4", "log.tensorboard=false", "device=cpu"]
    small += ["checkpoint.every_steps=3", "preview.steps=2", "data.part=[0, 14]"]

    def train(name: str, *options: str) -> Path:
        command = ["train", "examples/layout.toml", *small, f"output={(tmp_path / name).as_posix()}", "--yes"]
        answer = program(*command, *options, cwd=ROOT, env=environment)
        assert answer.code == 0, answer.err
        return tmp_path / name

    whole, stopped = train("whole"), train("stopped")
    # as if the second run had been stopped after its last checkpoint
    shutil.rmtree(stopped / "checkpoints/step-00000008")
    (stopped / "stopped.safetensors").unlink()
    (stopped / "stopped.conditions.safetensors").unlink()
    answer = program("train", "--resume", stopped, "--trust", cwd=ROOT, env=environment)
    assert answer.code == 0, answer.err
    assert "continuing from step 6" in answer.err
    for suffix in ("safetensors", "conditions.safetensors"):
        first, second = load_file(whole / f"whole.{suffix}"), load_file(stopped / f"stopped.{suffix}")
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)

    previews = sorted((whole / "previews").glob("step-*/0*.png"))
    assert len({path.read_bytes() for path in previews[-2:]}) == 2
    drawn: list[bytes] = []
    command = ["sample", "--base", "tiny-sd", "--lora", whole / "whole.safetensors", "--prompt", "a photo of garp"]
    for number in ("03", "08"):
        out = tmp_path / number
        picture = ["--condition", f"layout=examples/layouts/boxes/{number}.png", "--plugin", "layout", "-o", out]
        answer = program(*command, "--steps", "2", "--size", "64", *picture, cwd=ROOT, env=environment)
        assert answer.code == 0, answer.err
        drawn.append(Image.open(out / "00000-0.png").tobytes())
    assert drawn[0] != drawn[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd2", "sdxl"])
def test_the_layout_fits_the_levels_of_other_unets(
    environment: dict[str, str], program: Program, random_base: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out"
    # 72 pixels: the levels have sides of 9, 5, 3 and 2
    small = ["views_per_image=4", "data.part=[0, 4]", "data.resolution=72", "log.tensorboard=false"]
    small += [
        "preview.prompts=[]",
        "device=cpu",
        "precision=bf16",
        f"output={out.as_posix()}",
        f"base={random_base(kind).as_posix()}",
    ]
    answer = program("train", "examples/layout.toml", *small, "--yes", cwd=ROOT, env=environment)
    assert answer.code == 0, answer.err
    encoder = load_file(out / "out.conditions.safetensors")
    assert any(bool(encoder[f"layout.last.{level}.weight"].any()) for level in range(2))


@pytest.mark.slow
def test_the_layout_is_refused_for_a_base_without_a_unet(
    environment: dict[str, str], program: Program, tmp_path: Path
) -> None:
    command = ["train", "examples/layout.toml", "base=tiny-flow", f"output={(tmp_path / 'out').as_posix()}"]
    answer = program(*command, "objective.weightings=[]", "optimizer.text_lr=0", cwd=ROOT, env=environment)
    assert answer.code == 1
    assert "this sd3 base has no UNet" in answer.err


@pytest.mark.slow
def test_the_hook_writes_its_table(trained: dict[str, Any]) -> None:
    lines = (Path(trained["change_log"]["file"]).parent / "changes.csv").read_text().splitlines()
    assert lines[0] == "step,component,norm"
    step, component, norm = lines[-1].split(",")
    assert (int(step) > 0, component) == (True, "unet")
    assert float(norm) > 0


@pytest.mark.slow
def test_previews_are_drawn_with_the_sampler_and_name_it(trained: dict[str, Any]) -> None:
    picture = next((Path(trained["churned_ddim"]["file"]).parent / "previews").rglob("*.png"))
    assert trained["churned_ddim"]["config"]["preview"]["sampler"] == "churned_ddim"
    texts = [Image.open(path).info for path in picture.parent.rglob("*.png")]
    assert any("Sampler: churned_ddim" in str(info) for info in texts)


DRAW = ("--prompt", "a photo of garp", "--steps", "1", "--size", "64")


@pytest.mark.slow
def test_a_plugin_is_not_imported_because_a_file_names_it(
    trained: dict[str, Any], here: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    file = trained["row_column"]["file"]
    answer = here("sample", "--base", "tiny-sd", "--lora", file, *DRAW, "-o", tmp_path / "out")
    assert answer.code == 1
    assert "--plugin row_column" in answer.err
    shown = here("inspect", file, "--json").json
    assert (shown["plugins"], shown["kind"]) == (["row_column"], "unknown")
    assert "row_column" not in sys.modules


@pytest.mark.slow
def test_the_adapters_file_is_drawn_where_its_plugin_is_asked_for(
    trained: dict[str, Any], environment: dict[str, str], program: Program, tmp_path: Path
) -> None:
    file, plugin = trained["row_column"]["file"], ["--plugin", "row_column"]
    command = ["sample", "--base", "tiny-sd", "--lora", file, *DRAW, *plugin]
    answer = program(*command, "-o", tmp_path / "out", env=environment)
    assert answer.code == 0, answer.err
    shown = program("inspect", file, "--json", *plugin, env=environment).json
    assert (shown["plugins"], shown["kind"]) == (["row_column"], "row_column")


@pytest.mark.slow
def test_the_scorer_measures_pictures(
    trained: dict[str, Any], environment: dict[str, str], program: Program, tmp_path: Path
) -> None:
    images = ROOT / "src/lorasmith/assets/garp"
    answer = program(
        "evaluate", "--images", images, "--drawn", images, "--plugin", "colours", "--scorer", "colours", "--json",
        "--trigger", "garp", "--class", "dog", "-o", tmp_path / "out", env=environment,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    (row,) = answer.json["rows"]
    assert 0.5 < row["image_alignment"] < 1
    assert row["nearest"][0]["cosine"] == pytest.approx(1, abs=1e-4), "each picture is in the folder itself"
    assert row["text_alignment"] is None


def test_a_module_that_is_not_there_is_a_message(program: Program) -> None:
    answer = program("inspect", "x.safetensors", "--plugin", "no_such_module")
    assert answer.code == 1
    assert 'the module "no_such_module" cannot be imported' in answer.err


def test_a_plugin_that_fails_names_its_line(program: Program, tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "faulty.py").write_text("x = 1\ny = x / 0\n")
    env = {**environment, "PYTHONPATH": os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])}
    answer = program("inspect", "x.safetensors", "--plugin", "faulty", env=env)
    assert answer.code == 1
    assert "ZeroDivisionError" in answer.err
    assert "faulty.py, line 2" in answer.err
