"""Shared fixtures: one thread, an isolated cache, a few pictures, a tiny random base."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.slow_share import Share, mark_slow_cases, take_share

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Programs that tests start share bytecode, or each would compile every module of the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# No test fails because the machine is busy.
hypothesis.settings.register_profile("without deadline", deadline=None)
hypothesis.settings.load_profile("without deadline")

# A background job of a shell starts with Ctrl-C ignored, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "run this share of the files of slow tests, like 2/4, and those that docs/guarantees.md names"
    # As text, which pytest-xdist can hand to its workers.
    parser.addoption("--share", type=lambda text: str(Share.read(text)), metavar="NUMBER/COUNT", help=help)


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem() -> Generator[None, Any, Any]:
    """Give parametrised tests with the marker `slow_except` their marker `slow`."""
    found = yield
    if isinstance(found, list):
        mark_slow_cases([item for item in found if isinstance(item, pytest.Function)])
    return found


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    share = config.getoption("share")
    if share:
        take_share(config, items, Share.read(share))


def pytest_collection_finish() -> None:
    """Modules stay until the end, so the garbage collector need not look through them again and again. Models and runs
    make so many objects that it would start hundreds of times in one training."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches of one test session are shared by its tests, and by fixtures of every scope; never touch the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORASMITH_CACHE", str(tmp_path_factory.getbasetemp().parent / "lorasmith-cache"))
        yield


@pytest.fixture(scope="session")
def random_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function from a family to a tiny base with random weights: a diffusers folder, and the single file beside it.

    Each base is written once a session. Tests must not change it.
    """
    import torch

    from tools import make_random_sd

    written: dict[tuple[str, torch.dtype, int], Path] = {}

    def base(family: str = "sd1", dtype: torch.dtype = torch.float32, *, seed: int = 1) -> Path:
        key = (family, dtype, seed)
        if key not in written:
            folder = tmp_path_factory.mktemp("bases") / family
            layouts = ("folder", "single")
            make_random_sd.write(folder, family, tiny=True, layouts=layouts, dtype=dtype, seed=seed)
            written[key] = folder
        return written[key]

    return base


@pytest.fixture(scope="session")
def float32_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded base in float32: a CPU computes faster in it, and merging rounds nothing away. Tests must not change
    it."""
    from safetensors.torch import load_file, save_file

    from lorasmith.core.package import assets

    folder = tmp_path_factory.mktemp("float32") / "tiny-sd"
    shutil.copytree(assets() / "tiny-sd", folder)
    for file in folder.rglob("*.safetensors"):
        tensors = {name: t.float() if t.is_floating_point() else t for name, t in load_file(file).items()}
        save_file(tensors, file, {"format": "pt"})
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """A function that makes a folder of small, different pictures with captions."""
    return lambda count=5, size=(80, 72), name="images": make_pictures(tmp_path / name, count, size)


def make_pictures(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Gradients with a disc, each in other colours; captions `a photo of garp, number 3`."""
    from PIL import Image, ImageDraw

    folder.mkdir(parents=True)
    for i in range(count):
        picture = Image.new("RGB", size, ((40 * i + 30) % 256, (90 * i + 60) % 256, (150 * i + 90) % 256))
        draw = ImageDraw.Draw(picture)
        x, y = 10 + 7 * i % 30, 12 + 5 * i % 30
        draw.ellipse((x, y, x + 30, y + 26), fill=((200 - 30 * i) % 256, (20 + 70 * i) % 256, (110 + 20 * i) % 256))
        picture.save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(f"a photo of garp, number {i}")
    return folder
