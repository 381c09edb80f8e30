"""Runs and states that are resumed with damaged files, and pickles."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from tools.fuzzing.guard import Case
from tools.fuzzing.material import Material, copy_run
from tools.fuzzing.tensor_files import damaged_tensor_file
from tools.fuzzing.values import Draw, damaged, damaged_bytes


def state_case(draw: Draw, folder: Path, material: Material) -> Case:
    """A run that is resumed after one or two of its files were damaged."""
    run = copy_run(material, folder)
    checkpoints = sorted((run / "checkpoints").glob("step-*"))
    places = [checkpoints[-1], checkpoints[-1], run / material.state.name, run, checkpoints[0]]
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(places))
        files = sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else []
        if files:
            damage(draw, draw(st.sampled_from(files)))
    (run / "garp.safetensors").unlink(missing_ok=True)
    resumed = draw(st.sampled_from([run, run, run, run / material.state.name, checkpoints[-1]]))
    arguments = ("train", "--resume", os.path.relpath(resumed, folder), "steps=3", "--yes")
    return Case(arguments, 256 << 20, 10.0)


def damage(draw: Draw, path: Path) -> None:
    """Damage one file, in the way of its kind."""
    way = draw(st.sampled_from(["content"] * 6 + ["bytes", "bytes", "missing", "folder", "empty"]))
    data = path.read_bytes()
    if way in ("missing", "folder"):
        path.unlink()
        if way == "folder":
            path.mkdir()
    elif way == "empty":
        path.write_bytes(b"")
    elif way == "bytes" or not data:
        path.write_bytes(damaged_bytes(draw, data))
    else:
        try:
            path.write_bytes(damaged_content(draw, path.suffix, data))
        except (ValueError, KeyError, IndexError, StopIteration):
            # the file was damaged before
            path.write_bytes(damaged_bytes(draw, data))


def damaged_content(draw: Draw, suffix: str, data: bytes) -> bytes:
    """The bytes of a file whose content is damaged in the way of its kind."""
    if suffix == ".safetensors":
        return damaged_tensor_file(draw, data)
    if suffix == ".json":
        return json.dumps(damaged(draw, json.loads(data))).encode("utf-8")
    if suffix == ".jsonl":
        lines = data.decode("utf-8").splitlines()
        index = draw(st.integers(0, len(lines) - 1))
        lines[index] = json.dumps(damaged(draw, json.loads(lines[index])))
        return ("\n".join(lines) + "\n").encode("utf-8")
    return damaged_bytes(draw, data)


class Harm:
    """An object that creates a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/fuzz-was-here",)


def pickle_case(draw: Draw, folder: Path, material: Material) -> Case:
    """A `.pt` or `.pth` with damaged content or bytes, or with code in it."""
    source = draw(st.sampled_from(material.pickles))
    suffix = draw(st.sampled_from([source.suffix, ".pt", ".pth", ".ckpt", ".safetensors"]))
    path = folder / f"a{suffix}"
    way = draw(st.sampled_from(["bytes", "bytes", "content", "content", "harm", "whole"]))
    if way == "bytes":
        path.write_bytes(damaged_bytes(draw, source.read_bytes()))
    elif way == "whole":
        shutil.copyfile(source, path)
    else:
        content: Any = damaged(draw, torch.load(source, weights_only=True))
        if way == "harm":
            content = {"a": Harm(), "b": content} if draw(st.booleans()) else Harm()
        torch.save(content, path, _use_new_zipfile_serialization=draw(st.booleans()))
    name, base = path.name, ("--base", "tiny-sd")
    commands: tuple[tuple[str, ...], ...] = (
        ("inspect", name),
        ("inspect", name, "--json"),
        ("convert", name, "--to", "kohya", *base, "-o", "b.safetensors"),
        ("resize", name, "--rank", "1", *base, "-o", "b.safetensors"),
        ("merge", "tiny-sd", name, "-o", "model"),
        (
            "convert",
            str(material.run / "garp.safetensors"),
            "--to",
            "bundle",
            "--word",
            name,
            *base,
            "-o",
            "b.safetensors",
        ),
        ("sample", *base, "--lora", name, "-p", "a", "--steps", "1", "-o", "out"),
        ("sample", *base, "--embedding", name, "-p", "a", "--steps", "1", "-o", "out"),
    )
    return Case(draw(st.sampled_from(commands)), 256 << 20, 4.0)
