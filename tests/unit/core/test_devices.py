"""Devices by what they can do. Other makers' devices are fakes: none of them is in reach of these tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lorasmith.core import devices
from lorasmith.core.devices import can_compute, device_name, memory_of, pick_device, untested_note
from lorasmith.core.errors import LorasmithError
from lorasmith.core.memory import peak_memory


def machine(monkeypatch: pytest.MonkeyPatch, **backends: Any) -> None:
    """A machine whose torch has these backends; the others find no device."""
    nothing = SimpleNamespace(is_available=lambda: False)
    monkeypatch.setattr(devices, "backend", lambda name: backends.get(name, nothing))
    monkeypatch.setattr("lorasmith.core.memory.backend", lambda name: backends.get(name, nothing))


def rocm(count: int = 2) -> SimpleNamespace:
    """AMD's build answers as `cuda`."""
    return SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: count,
        get_device_name=lambda device: "AMD Instinct",
        mem_get_info=lambda device: (60, 64),
        max_memory_allocated=lambda device: 5,
    )


def mps() -> SimpleNamespace:
    """Apple's has neither names nor free memory nor peaks."""
    return SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 1,
        recommended_max_memory=lambda: 100,
        driver_allocated_memory=lambda: 30,
    )


def fails() -> bool:
    raise RuntimeError("driver")


@pytest.mark.parametrize(
    ("backends", "picked", "everything"),
    [
        ({}, "cpu", []),
        ({"cuda": rocm()}, "cuda", ["cuda:0", "cuda:1"]),
        ({"xpu": rocm(1)}, "xpu", ["xpu:0"]),
        ({"mps": mps()}, "mps", ["mps:0"]),
        ({"mps": mps(), "xpu": rocm(1)}, "xpu", ["xpu:0"]),
        ({"cuda": SimpleNamespace(is_available=fails), "mps": mps()}, "mps", ["mps:0"]),
        ({"cuda": SimpleNamespace()}, "cpu", []),
    ],
)
def test_auto_takes_what_is_there(
    monkeypatch: pytest.MonkeyPatch, backends: dict[str, Any], picked: str, everything: list[str]
) -> None:
    machine(monkeypatch, **backends)
    assert pick_device("auto") == torch.device(picked)
    assert devices.all_devices() == everything


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, mps=mps())
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("mps") == torch.device("mps")
    with pytest.raises(LorasmithError, match="find a device of cuda, but it finds mps; use auto"):
        pick_device("cuda:1")
    with pytest.raises(LorasmithError, match="is not a device"):
        pick_device("gpu")
    machine(monkeypatch)
    with pytest.raises(LorasmithError, match="lorasmith doctor says why"):
        pick_device("xpu")


def test_names_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=rocm(), mps=mps())
    amd, apple = torch.device("cuda"), torch.device("mps")
    assert (device_name(amd), memory_of(amd), peak_memory(amd)) == ("AMD Instinct", (60, 64), 5)
    assert (device_name(apple), memory_of(apple)) == ("mps", (70, 100))
    assert peak_memory(apple) > 1 << 20
    free, total = memory_of(torch.device("cpu")) or (0, 0)
    assert 0 < free < total
    assert device_name(torch.device("cpu")) == f"cpu ({torch.get_num_threads()} threads)"


def test_only_untested_devices_get_a_note() -> None:
    assert untested_note(torch.device("cuda")) == untested_note(torch.device("cpu")) == ""
    assert "mps, on which Lorasmith has not been tested" in untested_note(torch.device("mps"))


def test_what_a_device_can_compute_is_tried() -> None:
    cpu = torch.device("cpu")
    assert can_compute(cpu, torch.float32)
    assert can_compute(cpu, torch.bfloat16)
    assert not can_compute(cpu, torch.float8_e4m3fn)
    assert not can_compute(torch.device("meta"), torch.float32)
