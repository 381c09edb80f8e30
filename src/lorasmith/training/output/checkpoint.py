"""Checkpoints: what a run needs to go on bit for bit.

A checkpoint is a folder `checkpoints/step-00000100/` with `adapter.safetensors` (float32), `optimizer.safetensors`,
`ema.safetensors` and `state.json` (position, hashes of the other files, what the run was made of). It is written beside
its place and renamed, so it is whole or not there; reading checks the hashes and falls back to the one before.
A checkpoint elsewhere also has the run's `config.toml`, and knows where the run is.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import atomic_folder, sha256_of
from lorasmith.training.output.events import Events

if TYPE_CHECKING:
    from lorasmith.training.run import Run

FOLDER = "checkpoints"


def save(run: Run, path: Path | None = None, texts: Mapping[str, str] | None = None) -> Path:
    """Write the checkpoint of the step just made; returns its folder.

    `path`: where to, if not among the run's own; `texts`: further files for it, name to content.
    """
    own = run.folder / FOLDER / f"step-{run.state.step:08d}"
    more = {} if path is None else {"config.toml": run.config.to_toml(), **(texts or {})}
    path = path or own
    optimizer_tensors, optimizer_rest = flatten(run.optimizer.state_dict())
    with atomic_folder(path) as folder:
        save_file(_own(run.adapters.state_dict()), folder / "adapter.safetensors")
        if run.words is not None:
            save_file(_own(run.words.state_dict()), folder / "words.safetensors")
        save_file(optimizer_tensors, folder / "optimizer.safetensors")
        if run.ema is not None:
            save_file({str(i): t.contiguous() for i, t in enumerate(run.ema.average)}, folder / "ema.safetensors")
        state = {
            "state": asdict(run.state),
            "optimizer": optimizer_rest,
            "loss_scale": [float(run.scale.value), float(run.scale.good)],
            "dataset": run.dataset.fingerprint(),
            "torch": torch.__version__,
            "id": run.events.id,
            "run": Path(os.path.relpath(run.folder, path)).as_posix(),
            "files": {f.name: sha256_of(f) for f in sorted(folder.glob("*.safetensors"))},
        }
        for name, text in {**more, "state.json": json.dumps(state)}.items():
            (folder / name).write_text(text, encoding="utf-8")
    return path


def load(run: Run, path: Path) -> None:
    """Put a checkpoint's weights, optimizer, average and position into the run."""
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    if state["dataset"] != run.dataset.fingerprint():
        raise LorasmithError(
            f"{path}: the images, captions or data settings are not those of the checkpoint, so the run cannot go on "
            "exactly. Bring them back, or start a new run."
        )
    try:
        run.adapters.load_state_dict(load_file(path / "adapter.safetensors"))
        if run.words is not None:
            run.words.load_state_dict(load_file(path / "words.safetensors"))
        run.optimizer.load_state_dict(unflatten(load_file(path / "optimizer.safetensors"), state["optimizer"]))
    except (KeyError, ValueError, RuntimeError) as error:
        raise LorasmithError(
            f"{path}: was made by a run with another adapter, other words or another optimizer, so it cannot go on "
            f"with these settings ({str(error).splitlines()[0]})"
        ) from None
    if run.ema is not None and (path / "ema.safetensors").is_file():
        average = load_file(path / "ema.safetensors")
        run.ema.average = [average[str(i)].to(w.device) for i, w in enumerate(run.ema.weights)]
    value, good = state["loss_scale"]
    run.scale.value.fill_(value)
    run.scale.good.fill_(good)
    for name, value in state["state"].items():
        setattr(run.state, name, value)


def newest(run_folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run, states that it wrote elsewhere included, and what was wrong with newer
    ones."""
    faults = []
    own = {path: int(path.name.removeprefix("step-")) for path in (run_folder / FOLDER).glob("step-*")}
    told = {run_folder / event["file"]: event["step"] for event in Events(run_folder, False).of("state")}
    found = own | {path: step for path, step in told.items() if path.is_dir()}
    for path in sorted(found, key=lambda path: (found[path], path in own), reverse=True):
        fault = fault_of(path)
        if fault is None:
            return path, faults
        faults.append(f"{path.name}: {fault}")
    return None, faults


def fault_of(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        for name, digest in state["files"].items():
            if sha256_of(path / name) != digest:
                return f"{name} is damaged"
    except (OSError, ValueError, KeyError) as error:
        return f"cannot be read ({error})"
    return None


def leave(run_folder: Path, step: int) -> list[str]:
    """Put checkpoints after `step` aside, into `checkpoints/left-at-00000100/`, for a run that goes on from there;
    returns their names."""
    later = [p for p in sorted((run_folder / FOLDER).glob("step-*")) if p.name > f"step-{step:08d}"]
    aside = run_folder / FOLDER / f"left-at-{step:08d}"
    for path in later:
        aside.mkdir(exist_ok=True)
        shutil.rmtree(aside / path.name, ignore_errors=True)
        path.rename(aside / path.name)
    return [path.name for path in later]


def prune(run_folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for path in sorted((run_folder / FOLDER).glob("step-*"), reverse=True)[keep:]:
        shutil.rmtree(path, ignore_errors=True)


def flatten(tree: Any, prefix: str = "") -> tuple[dict[str, Tensor], Any]:
    """A nested structure as named tensors and a JSON rest in which each tensor is `{"tensor": name}`."""
    if isinstance(tree, Tensor):
        return {prefix: tree.detach().cpu().clone().contiguous()}, {"tensor": prefix}
    if isinstance(tree, dict):
        tensors: dict[str, Tensor] = {}
        pairs = []
        for key, value in tree.items():
            found, rest = flatten(value, f"{prefix}/{key}" if prefix else str(key))
            tensors |= found
            pairs.append([key, rest])
        return tensors, {"dict": pairs}
    if isinstance(tree, list | tuple):
        tensors, rests = {}, []
        for index, value in enumerate(tree):
            found, rest = flatten(value, f"{prefix}/{index}")
            tensors |= found
            rests.append(rest)
        return tensors, {"tuple" if isinstance(tree, tuple) else "list": rests}
    return {}, {"value": tree}


def unflatten(tensors: dict[str, Tensor], rest: Any) -> Any:
    """The inverse of `flatten`."""
    (form, content), *_ = rest.items()
    if form == "tensor":
        return tensors[content]
    if form == "dict":
        return {key: unflatten(tensors, value) for key, value in content}
    if form in ("list", "tuple"):
        values = [unflatten(tensors, value) for value in content]
        return tuple(values) if form == "tuple" else values
    return content


def _own(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
