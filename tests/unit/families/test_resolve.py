"""What a user may write as the base model, and what he is told when it is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorasmith.core.errors import LorasmithError
from lorasmith.families.resolve import find


@pytest.mark.parametrize("name", ["old.ckpt", "old.pt", "old.bin"])
def test_pickles_are_refused_with_the_way_out(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    torch.save({"state_dict": {"a": torch.ones(2), "epoch": 3}}, path)
    with pytest.raises(LorasmithError, match="pickle") as error:
        find(path)
    if name != "old.ckpt":
        return
    command = str(error.value).split("-c ")[1].strip().strip('"')
    subprocess.run([sys.executable, "-c", command], cwd=tmp_path, check=True)  # the advice itself works
    assert torch.equal(load_file(path.with_suffix(".safetensors"))["a"], torch.ones(2))


def test_a_folder_of_pickles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(LorasmithError, match=r"only diffusion_pytorch_model\.bin, which is a pickle"):
        find(tmp_path).raw("unet")


def test_what_is_not_there(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(LorasmithError, match=r'no such file.*did you mean "model\.safetensors"'):
        find(str(tmp_path / "modell.safetensors"))
    with pytest.raises(LorasmithError, match="no such file"):
        find("no-slash-in-it")
    with pytest.raises(LorasmithError, match="not a diffusers model folder"):
        find(tmp_path)
    with pytest.raises(LorasmithError, match='no family is called "pixart"'):
        find(tmp_path, "pixart")


def test_a_hub_id_offline_is_a_clear_error() -> None:
    with pytest.raises(LorasmithError, match="no such folder here, and fetching it from the hub failed"):
        find("nobody/no-such-model")


def test_a_hub_id_is_taken_from_the_local_copy(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / "abc"
    (snapshot / "unet").mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    (snapshot / "unet" / "config.json").write_text(json.dumps({"cross_attention_dim": 768}))
    save_file({"a": torch.ones(3)}, snapshot / "unet" / "diffusion_pytorch_model.safetensors")
    code = "from lorasmith.families.resolve import identify; i = identify('some/model'); print(i.kind, i.parameters)"
    env = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert run.stdout.split()[:2] == ["sd1", "3"]
