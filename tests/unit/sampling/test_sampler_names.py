"""The names of samplers are listed without torch, which the studio's server does not import."""

from __future__ import annotations

import subprocess
import sys

LIST_NAMES = """
import sys
from lorasmith.sampling.sampler_names import sampler_names
assert "euler" in sampler_names()
assert "torch" not in sys.modules, "torch was imported"
"""


def test_listing_the_samplers_imports_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LIST_NAMES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
