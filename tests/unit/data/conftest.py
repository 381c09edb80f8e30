"""Data sets made on the spot, with a cache of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorasmith.core.config import validate
from lorasmith.data.config import DataConfig
from lorasmith.data.dataset import Dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[..., Dataset]:
    """Builds a data set from settings; 64 px and a cache in the test's folder unless told otherwise."""

    def build(images: Path | None = None, seed: int = 0, **settings: Any) -> Dataset:
        table = {"resolution": 64, "cache_dir": tmp_path / "cache", **settings}
        if images is not None:
            table["images"] = images
        return Dataset.build(validate(DataConfig, table), seed=seed)

    return build
