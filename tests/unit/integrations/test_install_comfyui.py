"""Copying the ComfyUI nodes: what is there afterwards, and which folders are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorasmith.core.errors import LorasmithError
from lorasmith.integrations.install_comfyui import NODES, install_comfyui_nodes


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    folder = tmp_path / "ComfyUI"
    (folder / "custom_nodes").mkdir(parents=True)
    return folder


@pytest.mark.parametrize("given", [".", "custom_nodes"])
def test_every_file_of_the_nodes_is_copied(comfyui: Path, given: str) -> None:
    target = install_comfyui_nodes(comfyui / given)
    assert target == comfyui / "custom_nodes" / "lorasmith"
    names = {path.name for path in NODES.iterdir() if path.name != "__pycache__"}
    assert names == {path.name for path in target.iterdir()} == {"__init__.py", "nodes.py", "README.md"}
    assert [path.name for path in target.parent.iterdir()] == ["lorasmith"]


def test_nodes_of_an_earlier_version_are_replaced(comfyui: Path) -> None:
    target = install_comfyui_nodes(comfyui)
    (target / "nodes.py").write_text('PREFIX = "lorasmith.word."\n')
    (target / "old.py").touch()
    install_comfyui_nodes(comfyui)
    assert (target / "nodes.py").read_bytes() == (NODES / "nodes.py").read_bytes()
    assert not (target / "old.py").exists()


def test_another_custom_node_of_this_name_is_not_overwritten(comfyui: Path) -> None:
    other = comfyui / "custom_nodes" / "lorasmith"
    other.mkdir()
    (other / "nodes.py").write_text("mine = 1\n")
    with pytest.raises(LorasmithError, match="does not contain Lorasmith's nodes"):
        install_comfyui_nodes(comfyui)
    assert (other / "nodes.py").read_text() == "mine = 1\n"


def test_a_folder_that_is_not_comfyui_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LorasmithError, match="no folder custom_nodes"):
        install_comfyui_nodes(tmp_path)
    assert list(tmp_path.iterdir()) == []
