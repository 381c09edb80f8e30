"""Checkpoints: what a run needs to go on bit for bit.

A checkpoint is a folder `checkpoints/step-00000100/` with `adapter.safetensors` (float32), `optimizer.safetensors`,
`ema.safetensors` and `state.json` (position, hashes of the other files, what the run was made of). It is written beside
its place and renamed, so it is whole or not there; reading checks the hashes and falls back to the one before.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.core.store import atomic_folder, sha256_of

if TYPE_CHECKING:
    from lorasmith.train.run import Run

FOLDER = "checkpoints"


def save(run: Run) -> Path:
    """Write the checkpoint of the step just made; returns its folder."""
    path = run.folder / FOLDER / f"step-{run.state.step:08d}"
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
            "files": {f.name: sha256_of(f) for f in sorted(folder.glob("*.safetensors"))},
        }
        (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    return path


def load(run: Run, path: Path) -> None:
    """Put a checkpoint's weights, optimizer, average and position into the run."""
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    if state["dataset"] != run.dataset.fingerprint():
        raise LorasmithError(
            f"{path}: the images, captions or data settings are not those of the checkpoint, so the run cannot go on "
            "exactly. Bring them back, or start a new run."
        )
    run.adapters.load_state_dict(load_file(path / "adapter.safetensors"))
    if run.words is not None:
        run.words.load_state_dict(load_file(path / "words.safetensors"))
    run.optimizer.load_state_dict(unflatten(load_file(path / "optimizer.safetensors"), state["optimizer"]))
    if run.ema is not None and (path / "ema.safetensors").is_file():
        average = load_file(path / "ema.safetensors")
        run.ema.average = [average[str(i)].to(w.device) for i, w in enumerate(run.ema.weights)]
    value, good = state["loss_scale"]
    run.scale.value.fill_(value)
    run.scale.good.fill_(good)
    for name, value in state["state"].items():
        setattr(run.state, name, value)


def newest(run_folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run, and what was wrong with newer ones."""
    faults = []
    for path in sorted((run_folder / FOLDER).glob("step-*"), reverse=True):
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
