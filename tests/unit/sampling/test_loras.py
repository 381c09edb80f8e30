"""Loading LoRA files: what does not fit is found by shapes alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lorasmith.adapters.base import Adapter, AdapterConfig, LayerSpec
from lorasmith.adapters.layer import spec_of
from lorasmith.core.errors import LorasmithError
from lorasmith.core.registry import registered
from lorasmith.families.base import Family
from lorasmith.formats.read import LoraFile
from lorasmith.sampling.loras import load_lora, restore_adapter

PATH = Path("x.safetensors")
LAYER = nn.Linear(12, 24)
OTHER = {"norm": nn.LayerNorm(16)}
"""A layer that files for `LAYER` do not fit, for kinds that want another one than `WIDER`."""
WIDER = nn.Linear(20, 36)
KINDS = sorted(kind for kind, config in registered(AdapterConfig).items() if not config.writes)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of adapter whose change was computed, once for each time."""
    calls: list[str] = []

    def count(name: str) -> Any:
        return lambda self, base=None: calls.append(name)

    def subclasses(cls: type[Adapter]) -> Iterator[type[Adapter]]:
        for subclass in cls.__subclasses__():
            yield subclass
            yield from subclasses(subclass)

    for adapter in subclasses(Adapter):
        if "delta" in vars(adapter):
            monkeypatch.setattr(adapter, "delta", count(adapter.__name__))
    return calls


def tensors_of(kind: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A layer, and the tensors that a file of this kind has for it."""
    layer = nn.LayerNorm(12) if kind == "norm" else LAYER
    spec = spec_of("unet.x", layer)
    assert spec is not None
    adapter = registered(AdapterConfig)[kind]().build(spec, layer.weight.detach(), torch.Generator())
    assert adapter is not None
    return layer, adapter.tensors()


@pytest.mark.parametrize("kind", KINDS)
def test_loading_computes_no_change(kind: str, computed: list[str]) -> None:
    layer, tensors = tensors_of(kind)
    computed.clear()
    adapter = restore_adapter("unet.x", layer, tensors, LoraFile(PATH, {}, {}))
    assert isinstance(adapter, Adapter)
    assert computed == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_for_another_layer_is_an_error_that_names_both_shapes(kind: str, computed: list[str]) -> None:
    _, tensors = tensors_of(kind)
    other = OTHER.get(kind, WIDER)
    computed.clear()
    with pytest.raises(LorasmithError, match=r"does not fit this base.*unet\.x has shape .*the file has") as caught:
        restore_adapter("unet.x", other, tensors, LoraFile(PATH, {}, {}))
    assert str(tuple(other.weight.shape)) in str(caught.value)
    assert computed == []


def test_a_missing_factor_is_an_error() -> None:
    layer, tensors = tensors_of("lora")
    del tensors["lora_up.weight"]
    with pytest.raises(LorasmithError, match=r"does not fit.*lora_down\.weight \(16, 12\)"):
        restore_adapter("unet.x", layer, tensors, LoraFile(PATH, {}, {}))


def test_an_error_of_a_kind_itself_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, layer: LayerSpec, base: Tensor, tensors: dict[str, Tensor]) -> Adapter:
        raise RuntimeError("a bug")

    monkeypatch.setattr(registered(AdapterConfig)["lora"], "restore", broken)
    layer, tensors = tensors_of("lora")
    with pytest.raises(RuntimeError, match="a bug"):
        restore_adapter("unet.x", layer, tensors, LoraFile(PATH, {}, {}))


def test_the_error_of_a_whole_file_names_it(family: Family, tmp_path: Path) -> None:
    layer = next(name for name in family.named_layers(["unet"]) if name.endswith("attn1.to_q"))
    stem = "lora_unet_" + layer.removeprefix("unet.").replace(".", "_")
    path = tmp_path / "other.safetensors"
    save_file({f"{stem}.lora_down.weight": torch.zeros(2, 7), f"{stem}.lora_up.weight": torch.zeros(9, 2)}, path)
    with pytest.raises(LorasmithError, match=r"other\.safetensors: it does not fit this base.*the file has"):
        load_lora(family, path)
