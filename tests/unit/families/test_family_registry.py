"""A further family is found by what it registers, with no change elsewhere."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorasmith.core.errors import LorasmithError
from lorasmith.families import registry
from lorasmith.families.file_names import file_names_of
from lorasmith.families.load import load
from lorasmith.families.resolve import find


class ToyLoader(registry.FamilyLoader):
    """Recognises folders with `transformer/config.json`."""

    kinds = ("toy",)
    hub_weights = {"transformer": "diffusion_pytorch_model"}  # noqa: RUF012

    def open_folder(self, name: str, path: Path, kind: str | None) -> Any:
        if not (path / "transformer" / "config.json").is_file():
            raise registry.NotRecognisedError(f"{path}: it has no transformer/config.json")
        return SimpleNamespace(name=name, path=path, kind="toy")

    def open_file(self, name: str, path: Path, kind: str | None) -> Any:
        raise registry.NotRecognisedError(f"{path}: no toy")

    def replace_vae(self, base: Any, path: Path) -> Any:
        raise NotImplementedError

    def load(self, source: Any, dtype: object, device: object) -> Any:
        return SimpleNamespace(source=source, kind=source.kind)


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_LOADERS", [*registry.loaders(), ToyLoader()])


def test_a_registered_family_is_found_and_loaded(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text("{}")
    assert find(tmp_path).kind == "toy"
    assert load(tmp_path).kind == "toy"
    assert find("tiny-sd").kind == "sd1"


def test_what_no_family_recognises_gives_the_reason_of_each(tmp_path: Path) -> None:
    with pytest.raises(LorasmithError) as error:
        find(tmp_path)
    assert "no unet/config.json" in str(error.value)
    assert "no transformer/config.json" in str(error.value)


def test_a_family_may_be_named(tmp_path: Path) -> None:
    with pytest.raises(LorasmithError, match="no transformer/config"):
        find(tmp_path, "toy")
    with pytest.raises(LorasmithError, match=r'there are .*sd1, sd2, sdxl, toy\. did you mean "toy"'):
        find(tmp_path, "tou")


def test_the_names_of_an_unknown_family_suggest_the_nearest() -> None:
    with pytest.raises(LorasmithError, match=r'no family is called "fluks".*did you mean "flux"'):
        file_names_of("fluks")
