"""With latents and texts cached, training imports no model library."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from answers import Program

MODEL_LIBRARIES = {"diffusers", "transformers", "tokenizers", "accelerate", "peft", "bitsandbytes"}


@pytest.mark.slow
def test_a_warm_start_imports_neither_diffusers_nor_transformers(
    here: Program, config: Callable[..., Path], tmp_path: Path
) -> None:
    path = config()
    assert here("train", path).code == 0
    code = (
        "import json, sys, lorasmith\n"
        f"result = lorasmith.train({str(path)!r}, output={str(tmp_path / 'warm')!r})\n"
        "print(json.dumps([result.finished, sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    finished, modules = json.loads(done.stdout.splitlines()[-1])
    assert finished
    assert "torch" in modules
    assert MODEL_LIBRARIES & set(modules) == set()
