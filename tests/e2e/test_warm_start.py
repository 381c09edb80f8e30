"""With warm caches, a run starts without the libraries that only the caches' makers need."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from test_resume import settings

CHILD = """
import json, sys
from lorasmith.train.build import build_run
from lorasmith.train.config import load_config
from lorasmith.train.loop import step, steps_from
from pathlib import Path

run = build_run(load_config(Path(sys.argv[1])), overwrite=True)
epoch, plans = next(steps_from(run))
step(run, epoch, plans)
heavy = ("diffusers", "transformers", "tokenizers", "peft", "bitsandbytes", "tensorboard", "pandas", "accelerate")
print(json.dumps({"step": run.state.step, "heavy": [m for m in heavy if m in sys.modules]}))
"""


def test_no_model_library_on_the_cached_path(pictures: Callable[..., Path], tmp_path: Path) -> None:
    table = settings(pictures(3), tmp_path / "run", steps=1)
    table["data"] |= {"transforms": [{"kind": "flip"}], "cache_dir": str(tmp_path / "cache")}
    table["optimizer"] = {"lr": 1e-3}
    config = tmp_path / "config.json"
    config.write_text(json.dumps(table))

    def child() -> dict:
        done = subprocess.run([sys.executable, "-c", CHILD, str(config)], capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    cold, warm = child(), child()
    assert cold["step"] == warm["step"] == 1
    assert "diffusers" in cold["heavy"]
    assert warm["heavy"] == []
