"""Random tiny base models of each family, written once a session by tools/make_random_sd.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from `sd1`, `sd2`, `sdxl` to a diffusers folder; the original-layout file is beside it."""
    import make_random_sd

    made: dict[str, Path] = {}

    def base(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("bases") / kind
            make_random_sd.write(made[kind], kind, tiny=True, layouts=("folder", "single"), dtype=torch.float32, seed=1)
        return made[kind]

    return base
