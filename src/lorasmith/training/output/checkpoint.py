"""Checkpoints: what a run needs to go on bit for bit.

A checkpoint is a folder `checkpoints/step-00000100/` with `adapter.safetensors` (float32), `words.safetensors` (new
tokens), `conditions.safetensors` (encoders of conditions), `optimizer.safetensors`, `ema.safetensors` and `state.json`
(position, hashes of all files, identity of the run and its data). It is written to a temporary folder and then renamed,
so it is either complete or not there. When a run is resumed, the hashes are checked, and a damaged checkpoint is
skipped in favour of the one before.

A checkpoint outside of the run's `checkpoints` folder also holds the run's `config.toml`, and the path of the run.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import atomic_folder, sha256_of
from lorasmith.training.output.events import Events
from lorasmith.training.run import TrainState
from lorasmith.training.step.gradients import all_finite
from lorasmith.training.step.metrics import not_finite_message

if TYPE_CHECKING:
    from lorasmith.training.run import Run

FOLDER = "checkpoints"
NEEDED = frozenset({"adapter.safetensors", "optimizer.safetensors"})
"""Files that every checkpoint has."""


def save(run: Run, path: Path | None = None, extra_files: Mapping[str, str] | None = None) -> Path:
    """Write a checkpoint of the step just made; returns its folder.

    `path`: the folder, if it is not to be in the run's `checkpoints`. `extra_files`: name and text of further files,
    which are written only if `path` is given. Raises LorasmithError, and writes nothing, if a weight is not finite:
    nothing could be continued from there.
    """
    require_finite(run)
    texts: dict[str, str] = {}
    if path is None:
        path = run.folder / FOLDER / f"step-{run.state.step:08d}"
    else:
        texts["config.toml"] = run.config.to_toml()
        texts.update(extra_files or {})

    optimizer_tensors, optimizer_tree = flatten(run.optimizer.state_dict())
    with atomic_folder(path) as folder:
        save_file(_on_cpu(run.adapters.state_dict()), folder / "adapter.safetensors")
        if run.token_trainer is not None:
            save_file(_on_cpu(run.token_trainer.state_dict()), folder / "words.safetensors")
        if len(run.conditions):
            save_file(_on_cpu(run.conditions.state_dict()), folder / "conditions.safetensors")
        save_file(optimizer_tensors, folder / "optimizer.safetensors")
        if run.ema is not None:
            average = {str(i): tensor.contiguous() for i, tensor in enumerate(run.ema.average)}
            save_file(average, folder / "ema.safetensors")

        # last, since it has the hashes of all other files
        state = {
            "state": asdict(run.state),
            "optimizer": optimizer_tree,
            "loss_scale": [float(run.loss_scale.value), float(run.loss_scale.good_steps)],
            "dataset": run.dataset.fingerprint(),
            "torch": torch.__version__,
            "id": run.events.id,
            "run": Path(os.path.relpath(run.folder, path)).as_posix(),
            "files": {file.name: sha256_of(file) for file in sorted(folder.glob("*.safetensors"))},
        }
        texts["state.json"] = json.dumps({**state, "digest": digest_of(state)})
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    return path


def require_finite(run: Run) -> None:
    """Raises LorasmithError if a trained weight or its average is not a finite number."""
    averages = run.ema.average if run.ema is not None else []
    if not bool(all_finite([*run.parameters, *averages])):
        raise LorasmithError(not_finite_message(run.state.step))


def load(run: Run, path: Path) -> None:
    """Load a checkpoint's weights, optimizer state, weight average and position into the run.

    Raises LorasmithError if the checkpoint was made with other data, another adapter or another optimizer.
    """
    # with other data, the steps that follow would see other batches than the uninterrupted run
    state = read_state(path)
    if state["dataset"] != run.dataset.fingerprint():
        raise LorasmithError(
            f"{path}: the images, captions or data settings differ from those of the checkpoint, so the run cannot "
            "continue exactly. Restore them, or start a new run."
        )

    try:
        run.adapters.load_state_dict(load_file(path / "adapter.safetensors"))
        if run.token_trainer is not None:
            run.token_trainer.load_state_dict(load_file(path / "words.safetensors"))
        if len(run.conditions):
            run.conditions.load_state_dict(load_file(path / "conditions.safetensors"))
        optimizer_tensors = load_file(path / "optimizer.safetensors")
        run.optimizer.load_state_dict(unflatten(optimizer_tensors, state["optimizer"]))
        # the file is missing if the run had no average when the checkpoint was made
        if run.ema is not None and (path / "ema.safetensors").is_file():
            average = load_file(path / "ema.safetensors")
            run.ema.average = [average[str(i)].to(weight.device) for i, weight in enumerate(run.ema.weights)]
    except (OSError, SafetensorError) as error:
        raise LorasmithError(f"{path}: the checkpoint cannot be read ({error}); name another one") from None
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, RecursionError) as error:
        raise LorasmithError(
            f"{path}: the checkpoint was made with another adapter, other new tokens, other conditions or another "
            "optimizer, so the run cannot continue with these settings "
            f"({(str(error) or type(error).__name__).splitlines()[0]})"
        ) from None

    # written in place, since a captured CUDA graph reads these tensors
    loss_scale, good_steps = state["loss_scale"]
    run.loss_scale.value.fill_(loss_scale)
    run.loss_scale.good_steps.fill_(good_steps)
    for name, value in state["state"].items():
        setattr(run.state, name, value)


def find_newest(run_folder: Path) -> tuple[Path | None, list[str]]:
    """The newest intact checkpoint of a run, and descriptions of the newer ones that are damaged. States, which a run
    may write to other folders, count too. Of two checkpoints of the same step, the one in the run's `checkpoints`
    comes first."""
    in_run = checkpoints_in(run_folder)
    steps = {path: step_of(path) for path in in_run}
    for event in Events(run_folder, tensorboard=False).of("state"):
        path = run_folder / str(event.get("file"))
        if is_folder(path):
            steps[path] = event["step"]

    faults = []
    # a damaged checkpoint, for example after a power failure, is no reason to lose the run
    newest_first = sorted(steps, key=lambda path: (steps[path], path in in_run), reverse=True)
    for path in newest_first:
        fault = fault_of(path)
        if fault is None:
            return path, faults
        faults.append(f"{path.name}: {fault}")
    return None, faults


def checkpoints_in(run_folder: Path) -> list[Path]:
    """The checkpoints in the `checkpoints` folder of a run, oldest first."""
    # step numbers have leading zeros, so the order of names is that of steps
    return sorted(path for path in (run_folder / FOLDER).glob("step-*") if path.name.removeprefix("step-").isdigit())


def step_of(path: Path) -> int:
    """The step of a checkpoint in the `checkpoints` folder, from its name."""
    return int(path.name.removeprefix("step-"))


def fault_of(path: Path) -> str | None:
    """A description of what is wrong with a checkpoint, or None if it is intact."""
    try:
        state = read_state(path)
        unchecked = NEEDED - state["files"].keys()
        if unchecked:
            return f"state.json does not name {', '.join(sorted(unchecked))}"
        for name, digest in state["files"].items():
            if Path(name).name != name:
                return f"state.json names {name}, which is not a file of the checkpoint"
            if sha256_of(path / name) != digest:
                return f"{name} is damaged"
        # every tensor of the optimizer that the state refers to is there
        unflatten(load_file(path / "optimizer.safetensors"), state["optimizer"])
    except (OSError, ValueError, SafetensorError) as error:
        return f"cannot be read ({error})"
    except (KeyError, TypeError, AttributeError, StopIteration, RecursionError) as error:
        return f"state.json does not fit the other files ({type(error).__name__}: {error})"
    return None


def read_state(path: Path) -> dict[str, Any]:
    """The `state.json` of a checkpoint. Raises OSError, or ValueError if it is not what `save` writes."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("state.json is nested too deeply") from None
    if not isinstance(state, dict):
        raise ValueError("state.json is not a table")
    # checkpoints of older versions have no digest
    digest = state.pop("digest", None)
    if digest is not None and digest != digest_of(state):
        raise ValueError("state.json is damaged")
    types = {"state": dict, "optimizer": dict, "loss_scale": list, "dataset": str, "files": dict}
    for key, expected in types.items():
        if not isinstance(state.get(key), expected):
            raise ValueError(f"state.json has no valid `{key}`")
    check_position(state)
    return state


def check_position(state: Mapping[str, Any]) -> None:
    """Raises ValueError if the step and the other numbers of a state are not what `save` writes."""
    # the position of the run, from which the place in the data follows
    position = state["state"]
    if not set(position) <= {field.name for field in fields(TrainState)}:
        raise ValueError("state.json has a `state` of unknown fields")
    counters = [position.get("step"), position.get("samples")]
    if not all(isinstance(counter, int) and counter >= 0 for counter in counters):
        raise ValueError("state.json has a `state` without a valid step")
    numbers = [position.get("seconds", 0.0), *state["loss_scale"]]
    if len(numbers) != 3 or not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise ValueError("state.json has no valid `seconds` or `loss_scale`")


def digest_of(state: Mapping[str, Any]) -> str:
    """SHA-256 of the content of `state.json`: a single bit of it can mean another learning rate."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def is_folder(path: Path) -> bool:
    """Whether a path is that of a folder. One that no system can have, such as one with a NUL, is not."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def set_later_aside(run_folder: Path, step: int) -> list[str]:
    """Move the checkpoints after `step` into `checkpoints/left-at-00000100/`, because the run continues from `step`;
    returns their names."""
    later = [path for path in checkpoints_in(run_folder) if path.name > f"step-{step:08d}"]
    aside = run_folder / FOLDER / f"left-at-{step:08d}"
    for path in later:
        aside.mkdir(exist_ok=True)
        # the run may have continued from this step before
        shutil.rmtree(aside / path.name, ignore_errors=True)
        path.rename(aside / path.name)
    return [path.name for path in later]


def prune(run_folder: Path, keep: int) -> None:
    """Delete all checkpoints but the newest `keep`."""
    newest_first = checkpoints_in(run_folder)[::-1]
    for path in newest_first[keep:]:
        shutil.rmtree(path, ignore_errors=True)


def flatten(tree: Any, prefix: str = "") -> tuple[dict[str, Tensor], Any]:
    """Split a nested structure into its tensors by name, and a tree for JSON in which each tensor is replaced by
    `{"tensor": name}`. `prefix`: the name of the structure itself."""
    if isinstance(tree, Tensor):
        stored = tree.detach().cpu().clone().contiguous()
        return {prefix: stored}, {"tensor": prefix}

    tensors: dict[str, Tensor] = {}
    if isinstance(tree, dict):
        # pairs instead of an object, since JSON keys are texts, and keys of optimizer states are numbers
        pairs = []
        for key, value in tree.items():
            value_tensors, value_tree = flatten(value, f"{prefix}/{key}" if prefix else str(key))
            tensors.update(value_tensors)
            pairs.append([key, value_tree])
        return tensors, {"dict": pairs}

    if isinstance(tree, list | tuple):
        items = []
        for index, value in enumerate(tree):
            value_tensors, value_tree = flatten(value, f"{prefix}/{index}")
            tensors.update(value_tensors)
            items.append(value_tree)
        return tensors, {"tuple" if isinstance(tree, tuple) else "list": items}

    return {}, {"value": tree}


def unflatten(tensors: dict[str, Tensor], tree: Any) -> Any:
    """The inverse of `flatten`."""
    node_type, content = next(iter(tree.items()))
    if node_type == "tensor":
        return tensors[content]
    if node_type == "dict":
        return {key: unflatten(tensors, value) for key, value in content}
    if node_type == "list":
        return [unflatten(tensors, value) for value in content]
    if node_type == "tuple":
        return tuple(unflatten(tensors, value) for value in content)
    return content


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors that share no memory, as `save_file` demands."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
