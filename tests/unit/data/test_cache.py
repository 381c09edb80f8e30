"""Nothing stale and nothing damaged is ever read from a cache."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_family import FakeFamily
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lorasmith.core.progress import Lines, Progress
from lorasmith.data.cache import TensorCache
from lorasmith.data.dataset import Dataset, TextSettings
from lorasmith.data.placement import Placement
from lorasmith.data.views import View

Build = Callable[..., Dataset]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i, size in enumerate([(100, 64), (64, 90)]):
        pixels = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
        Image.fromarray(pixels, "RGBA").save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"garp {i}")
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(pixels[:, :, 0]).save(folder / "masks" / f"{i}.png")
    return folder


def fill(data: Dataset, family: FakeFamily | None = None, text: TextSettings | None = None) -> FakeFamily:
    family = family or FakeFamily()
    data.prepare(family, text=text or TextSettings(), progress=Progress())
    return family


def everything(data: Dataset) -> list[torch.Tensor]:
    found = []
    for epoch in range(3):
        for batch in map(data.load, data.epoch(epoch)):
            assert batch.latents is not None
            assert batch.conditioning is not None
            parts = [
                batch.latents.mean,
                batch.latents.std,
                batch.mask,
                batch.subject,
                batch.crop,
                batch.conditioning["context"],
            ]
            found += [part for part in parts if part is not None]
    return found


SETTINGS = st.fixed_dictionaries(
    {
        "resolution": st.sampled_from([64, 80, (64, 96)]),
        "buckets": st.fixed_dictionaries(
            {"enabled": st.booleans(), "upscale": st.booleans(), "step": st.sampled_from([8, 16, None])}
        ),
        "transforms": st.lists(
            st.sampled_from(
                [
                    "flip",
                    {"kind": "random_crop", "places": 2},
                    {"kind": "random_crop", "places": 3},
                    {"kind": "letterbox", "kept": 2},
                    {"kind": "letterbox", "kept": 2, "upper": False, "scale": [0.5, 0.9]},
                    {"kind": "color", "kept": 2, "rate": 1.0},
                    {"kind": "tag_warmup", "until": 2},
                ]
            ),
            max_size=2,
            unique_by=str,
        ),
        "masks": st.sampled_from([None, "alpha", "masks"]),
        "masks_weigh": st.booleans(),
        "resize": st.sampled_from(["auto", "bicubic"]),
        "seed": st.integers(0, 3),
    }
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=SETTINGS, kind=st.sampled_from(["sd1", "sdxl"]), std=st.booleans())
def test_a_shared_cache_gives_what_an_empty_one_gives(
    folder: Path, dataset: Build, tmp_path: Path, chosen: dict[str, Any], kind: str, std: bool
) -> None:
    """Whatever settings used the cache before."""
    own = dict(chosen)
    own["masks"] = folder / "masks" if own["masks"] == "masks" else own["masks"]
    shared, fresh = dataset(folder, **own), dataset(folder, cache_dir=tmp_path / "fresh", **own)
    for data in (shared, fresh):
        family = FakeFamily(vae=f"{std}", std=std)
        family.kind = kind  # type: ignore[misc]
        fill(data, family)
    for a, b in zip(everything(shared), everything(fresh), strict=True):
        assert torch.equal(a, b)
    shutil.rmtree(tmp_path / "fresh")


def test_a_second_run_asks_no_model(folder: Path, dataset: Build) -> None:
    first, second = dataset(folder, transforms=["flip"]), dataset(folder, transforms=["flip"])
    family = fill(first)
    assert (family.images, family.texts) == (4, 2)
    family = fill(second)
    assert (family.images, family.texts) == (0, 0)
    assert second.summary()["cache"] == {"latents": {"found": 4, "made": 0}, "texts": {"found": 2, "made": 0}}
    for a, b in zip(everything(first), everything(second), strict=True):
        assert torch.equal(a, b)


def test_what_makes_the_numbers_is_in_the_name(folder: Path, dataset: Build) -> None:
    def made(vae: str = "v", text: str = "t", plan: TextSettings | None = None, **settings: Any) -> tuple[int, int]:
        family = fill(dataset(folder, **settings), FakeFamily(vae, text), plan)
        return family.images, family.texts

    assert made() == (2, 2)
    assert made() == (0, 0)
    assert made(vae="other") == (2, 0)
    assert made(text="other") == (0, 2)
    assert made(plan=TextSettings(max_tokens=150)) == (0, 2)
    assert made(plan=TextSettings(clip_skip=2)) == (0, 2)
    assert made(resolution=128) == (2, 0)
    assert made(transforms=["flip"]) == (4, 0)
    assert made(masks="alpha") == (2, 0)
    assert made(masks=folder / "masks") == (2, 0)
    assert made(batch_size=2, repeats=3, loss_weight=0.5, workers=2) == (0, 0)


def test_a_crop_without_room_is_encoded_once(folder: Path, dataset: Build, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "square.png")
    crop = {"kind": "random_crop", "places": 5}
    assert fill(dataset(tmp_path / "square.png", transforms=[crop])).images == 1
    assert fill(dataset(folder / "0.png", transforms=[crop], buckets={"enabled": False})).images == 5


def test_the_size_before_the_crop_is_in_the_name(folder: Path, dataset: Build) -> None:
    (record,) = dataset(folder / "0.png").records
    first, second = (View(record, Placement((64, 64), (width, 64)), (), ()) for width in (64, 65))
    assert first.crop.box == second.crop.box
    assert first.cache_key_parts() != second.cache_key_parts()


def test_another_image_under_the_same_name(folder: Path, dataset: Build, tmp_path: Path) -> None:
    shutil.copy(folder / "0.png", tmp_path / "a.png")
    fill(dataset(tmp_path / "a.png"))
    shutil.copy(folder / "1.png", tmp_path / "a.png")
    data = dataset(tmp_path / "a.png")
    assert fill(data).images == 1
    shutil.move(tmp_path / "a.png", tmp_path / "b.png")
    assert fill(dataset(tmp_path / "b.png")).images == 0


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "folder", "noise"])
def test_a_damaged_file_is_made_again(folder: Path, dataset: Build, tmp_path: Path, damage: str) -> None:
    whole = dataset(folder)
    fill(whole)
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 4
    for file in files:
        data = bytearray(file.read_bytes())
        file.unlink()
        if damage == "folder":
            file.mkdir()
            continue
        if damage == "flipped":
            data[-3] ^= 4
        content = {"cut": data[:-8], "empty": b"", "flipped": data, "noise": b"\x07" * 900}[damage]
        file.write_bytes(bytes(content))
    again = dataset(folder)
    family = fill(again)
    assert (family.images, family.texts) == (2, 2)
    for a, b in zip(everything(whole), everything(again), strict=True):
        assert torch.equal(a, b)
    if damage != "folder":
        assert fill(dataset(folder)).images == 0


def test_a_cache_that_cannot_be_written_is_said_and_not_needed(folder: Path, dataset: Build, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    data = dataset(folder, cache_dir=tmp_path / "file")
    said: list[str] = []
    data.prepare(FakeFamily(), text=TextSettings(), progress=Lines(said.append))
    assert len(everything(data)) == 3 * 2 * 4
    assert "the cache cannot be written" in said[0]


def test_no_half_files_stay(folder: Path, dataset: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lorasmith.data.cache.save_file", fail)
    data = dataset(folder)
    said: list[str] = []
    data.prepare(FakeFamily(), text=TextSettings(), progress=Lines(said.append))
    assert "disk is full" in said[0]
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_tensors_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "a": (torch.randn(3, 4) * 100).to(dtype).T,
        "b": torch.zeros(0, dtype=dtype),
        "c": torch.ones((), dtype=dtype),
    }
    TensorCache(tmp_path, "x").put("abcd", tensors)
    found = TensorCache(tmp_path, "x").get("abcd")
    assert found is not None
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[k], tensors[k]) and found[k].dtype == dtype for k in tensors)
    assert TensorCache(tmp_path, "y").get("abcd") is None


@pytest.mark.slow
def test_the_cached_path_imports_no_model_library(folder: Path, dataset: Build, tmp_path: Path) -> None:
    fill(dataset(folder))
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from fake_family import FakeFamily
from lorasmith.core.progress import Progress
from lorasmith.data.config import DataConfig
from lorasmith.data.dataset import Dataset, TextSettings
data = Dataset.build(DataConfig(images={str(folder)!r}, resolution=64, cache_dir={str(tmp_path / "cache")!r}), seed=0)
family = FakeFamily()
data.prepare(family, text=TextSettings(), progress=Progress())
assert data.load(data.epoch(0)[0]).conditioning is not None
assert family.images == family.texts == 0
assert not {{"diffusers", "transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_import_no_torch() -> None:
    code = "import sys, lorasmith.data.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


class TestMemory:
    """A cache of ten thousand images does not fit into memory, and need not."""

    def test_entries_beyond_the_limit_come_from_the_disk(self, tmp_path: Path) -> None:
        cache = TensorCache(tmp_path, "latents", memory_limit=2_000)
        entries = {f"{i:04}": {"mean": torch.full((100,), float(i))} for i in range(20)}
        for key, tensors in entries.items():
            cache.put(key, tensors)
        assert cache.bytes_in_memory <= 2_000

        for key, tensors in entries.items():
            loaded = cache.get(key)
            assert loaded is not None
            assert torch.equal(loaded["mean"], tensors["mean"])
            assert cache.bytes_in_memory <= 2_000

    def test_an_entry_is_counted_once_however_often_it_is_read(self, tmp_path: Path) -> None:
        cache = TensorCache(tmp_path, "latents", memory_limit=500)
        for key in ("aa1", "aa2"):
            cache.put(key, {"mean": torch.zeros(100)})
        again = TensorCache(tmp_path, "latents", memory_limit=500)
        for _ in range(3):
            for key in ("aa1", "aa2", "aa3"):
                again.get(key)
        assert again.counts() == {"found": 2, "made": 1}

    def test_what_cannot_be_written_stays_in_memory(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        cache = TensorCache(tmp_path / "file", "latents", memory_limit=500)
        for i in range(5):
            cache.put(f"{i:04}", {"mean": torch.full((100,), float(i))})
        assert cache.unwritable
        for i in range(5):
            assert cache.get(f"{i:04}") is not None
