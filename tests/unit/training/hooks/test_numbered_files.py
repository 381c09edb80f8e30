"""Names of exports and states, which of them stay, and checkpoints that a run leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from lorasmith.core.errors import LorasmithError
from lorasmith.training.config import load_config
from lorasmith.training.hooks.export import Exports
from lorasmith.training.hooks.preview import Previews
from lorasmith.training.output import checkpoint
from lorasmith.training.output.events import Events
from lorasmith.training.output.folder import find_resume_point, reopen
from lorasmith.training.session import train


def table(images: Path, output: Path, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "base": "tiny-sd",
        "output": str(output),
        "name": "a",
        "steps": 7,
        "data": {"images": str(images), "resolution": 64},
        "adapter": {"rank": 2, "layers": ["*.attn1.to_k"]},
        "log": {"tensorboard": False},
    }
    return settings | changes


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


@pytest.mark.parametrize("pattern", ["{name}", "{nam}-{step}", "a/{step}", "{step:q}", "{step", "{step.real}", ""])
def test_a_pattern_that_names_no_file_of_its_own(pattern: str) -> None:
    with pytest.raises(ValidationError):
        Exports(step_name=pattern)


@pytest.mark.parametrize("field", ["0999999999d", "100d", ".999999999f", "{step}d", "{name}"])
def test_a_pattern_that_names_files_too_long_for_memory(field: str) -> None:
    with pytest.raises(ValidationError, match="at most two digits"):
        Exports(step_name=f"{{step:{field}}}")
    with pytest.raises(ValidationError, match="at most two digits"):
        Exports(step_name="{step}" + "x" * 200)
    assert Exports(step_name="{step:09d}").step_name == "{step:09d}"


def test_previews_need_a_number_for_each_prompt() -> None:
    with pytest.raises(ValidationError, match="index"):
        Previews(prompts=("a",), copy_name="{name}-{step}")
    Previews(prompts=("a",), copy_name="{time}-{index:03d}", epoch_copy_name="{epoch}_{index}_{seed}")


def test_files_of_one_row(pictures: Callable[..., Path], tmp_path: Path) -> None:
    """Steps and epochs (three steps) are one row unless epochs have a name; the newest stay."""
    images = pictures(3)
    both = {"every_steps": 2, "every_epochs": 1}
    train(load_config(table(images, tmp_path / "one", export=both)))
    assert files(tmp_path / "one") == [*(f"a-{n:06d}.safetensors" for n in (2, 3, 4, 6)), "a.safetensors"]
    train(load_config(table(images, tmp_path / "few", export=both | {"keep": 2})))
    assert files(tmp_path / "few") == ["a-000004.safetensors", "a-000006.safetensors", "a.safetensors"]


@pytest.mark.slow
def test_words_are_pruned_too(pictures: Callable[..., Path], tmp_path: Path) -> None:
    words = [{"words": ["<a>"], "lr": 1e-3}]
    train(load_config(table(pictures(3), tmp_path / "run", concepts=words, export={"every_steps": 2, "keep": 1})))
    names = ["a-000006.exact", "a-000006", "a.exact", "a"]
    assert files(tmp_path / "run") == [f"{name}.safetensors" for name in names]


def test_several_words_have_a_file_each(pictures: Callable[..., Path], tmp_path: Path) -> None:
    """Those of one step go together."""
    concepts = [{"words": ["<a>"], "lr": 1e-3}, {"words": ["<b>"], "lr": 1e-3, "vectors": 2}]
    hook = {"kind": "words", "every_steps": 2, "keep": 2, "folder": str(tmp_path / "words"), "container": "safetensors"}
    train(load_config(table(pictures(3), tmp_path / "run", concepts=concepts, hooks=[hook], optimizer={"unet_lr": 0})))
    times = ["a", "a-000004", "a-000006"]
    assert files(tmp_path / "words") == sorted(f"{t}.{w}.safetensors" for t in times for w in ("a", "b"))
    assert load_file(tmp_path / "words/a.b.safetensors")["emb_params"].shape == (2, 128)
    with pytest.raises(LorasmithError, match="this run trains no new tokens"):
        train(load_config(table(pictures(3, name="more"), tmp_path / "none", hooks=[hook])))


def test_a_file_in_another_folder_is_not_overwritten(pictures: Callable[..., Path], tmp_path: Path) -> None:
    images, loras = pictures(3), tmp_path / "loras"
    loras.mkdir()
    (loras / "a.safetensors").write_bytes(b"precious")
    config = load_config(table(images, tmp_path / "run", steps=1, export={"folder": str(loras)}))
    with pytest.raises(LorasmithError, match=r"loras/a\.safetensors exists already"):
        train(config)
    assert (loras / "a.safetensors").read_bytes() == b"precious"
    assert train(config, overwrite=True).file == loras / "a.safetensors"
    assert files(tmp_path / "run") == []


def test_later_checkpoints_are_put_aside(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    for _ in range(2):  # again, with a later one that was made anew
        assert checkpoint.set_later_aside(tmp_path, 2)[-1] == "step-00000006"
        (tmp_path / "checkpoints/step-00000006").mkdir()
    left = sorted(path.name for path in (tmp_path / "checkpoints/left-at-00000002").iterdir())
    assert left == ["step-00000004", "step-00000006"]


def test_events_of_one_kind(tmp_path: Path) -> None:
    events = Events(tmp_path, tensorboard=False)
    told: list[tuple[str, int]] = []
    events.listen(lambda event, step, fields: told.append((event, step)))
    events.write("export", 2, file="a")
    events.write("step", 3, loss=1.0)
    events.write("export", 4, file='"event": "export"')
    with events.path.open("a") as file:
        file.write('{"event": "export", "st')  # torn by a kill
    assert [(e["step"], e["file"]) for e in events.of("export")] == [(2, "a"), (4, '"event": "export"')]
    assert told == [("export", 2), ("step", 3), ("export", 4)]


@pytest.mark.slow
def test_a_state_of_a_run_that_another_one_has_replaced(pictures: Callable[..., Path], tmp_path: Path) -> None:
    """The other run is moved aside, not gone on with; settings are those of the state."""
    images, run = pictures(3), tmp_path / "run"
    state = {"kind": "state", "every_steps": 2, "folder": str(tmp_path)}
    train(load_config(table(images, run, steps=4, seed=1, hooks=[state])))
    first = load_file(run / "a.safetensors")
    train(load_config(table(images, run, steps=4, seed=2)), overwrite=True)
    second = load_file(run / "a.safetensors")
    with pytest.raises(LorasmithError, match="already holds a run"):
        train(reopen(tmp_path / "a-000002-state"), resume=tmp_path / "a-000002-state")
    train(reopen(tmp_path / "a-000002-state"), resume=tmp_path / "a-000002-state", overwrite=True)
    third = load_file(run / "a.safetensors")
    assert all(torch.equal(third[key], first[key]) for key in first)
    assert any(not torch.equal(second[key], first[key]) for key in first)
    aside = load_file(tmp_path / "run.old-2" / "a.safetensors")
    assert all(torch.equal(aside[key], second[key]) for key in second)


def test_what_resume_names(tmp_path: Path) -> None:
    (tmp_path / "run/checkpoints/step-00000002").mkdir(parents=True)
    (tmp_path / "run/config.toml").write_text("")
    own = tmp_path / "run/checkpoints/step-00000002"
    (own / "state.json").write_text("{}")
    point = find_resume_point(own)
    assert (point.run, point.checkpoint) == (tmp_path / "run", own)
    point = find_resume_point(tmp_path / "run")
    assert (point.run, point.checkpoint) == (
        tmp_path / "run",
        None,
    )
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "state.json").write_text('{"run": "../gone"}')
    (moved / "config.toml").write_text("")
    point = find_resume_point(moved)
    assert (point.run, point.config) == (tmp_path / "gone", moved / "config.toml")
    (moved / "state.json").write_text('{"run')
    with pytest.raises(LorasmithError, match="cannot be read"):
        find_resume_point(moved)
    with pytest.raises(LorasmithError, match="holds no run"):
        find_resume_point(tmp_path)
