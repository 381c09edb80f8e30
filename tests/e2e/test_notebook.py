"""The notebook of the first LoRA: every cell runs as it stands, on the tiny base."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "first_lora.ipynb"


def read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_no_output_is_kept_in_the_repository() -> None:
    notebook = read()
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


@pytest.mark.slow
def test_every_cell_runs_and_a_lora_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("LORASMITH_CACHE", str(tmp_path / "cache"))
    notebook = read()
    answers = next(cell for cell in notebook.cells if "STEPS = None" in cell.source)
    answers.source = answers.source.replace("STEPS = None", "STEPS = 6")
    client = NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()

    assert (tmp_path / "runs" / "garp" / "garp.safetensors").is_file()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    # the training images, previews of the base and of the last step, before, after
    assert len(pictures) >= 5
    text = "".join(output.get("text", "") for output in outputs)
    assert "PROBLEM" not in text
    assert "14 pictures" in text
