"""`lorasmith doctor`: what it says about machines that are not this one, and that its test run tests something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lorasmith.cli.main import app
from lorasmith.training import doctor
from lorasmith.training.doctor import Diagnosis, Finding, describe_device, explain_missing_device

NVIDIA, AMD = "dev/nvidia0", "dev/kfd"


def machine(tmp_path: Path, node: str | None) -> Path:
    """The root folder of a machine with a device node."""
    if node:
        (tmp_path / node).parent.mkdir(parents=True)
        (tmp_path / node).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("node", "build", "environment", "level", "words"),
    [
        (None, "the CPU only", {}, "note", "none found; training runs on the CPU"),
        (None, "CUDA 12.8", {}, "note", "none found; training runs on the CPU"),
        (NVIDIA, "the CPU only", {}, "problem", "an NVIDIA GPU, but this torch is built for the CPU only"),
        (AMD, "the CPU only", {}, "problem", "an AMD GPU, but this torch is built for the CPU only"),
        (NVIDIA, "CUDA 12.8", {"CUDA_VISIBLE_DEVICES": ""}, "problem", "CUDA_VISIBLE_DEVICES hides it"),
        (NVIDIA, "CUDA 12.8", {}, "problem", "torch (CUDA 12.8) cannot use it: driver too old"),
        (AMD, "ROCm 6.4", {"HIP_VISIBLE_DEVICES": "-1"}, "problem", "HIP_VISIBLE_DEVICES hides it"),
    ],
)
def test_why_there_is_no_device(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    node: str | None,
    build: str,
    environment: dict[str, str],
    level: str,
    words: str,
) -> None:
    monkeypatch.setattr(doctor, "build_of_torch", lambda: build)
    monkeypatch.setattr(doctor, "driver_error", lambda: "driver too old")
    monkeypatch.setattr("shutil.which", lambda name: None)
    finding = explain_missing_device(machine(tmp_path, node), environment)
    assert finding.level == level
    assert words in finding.value
    assert finding.advice


@pytest.mark.parametrize(
    ("versions", "build"),
    [
        ({"cuda": "12.8"}, "CUDA 12.8"),
        ({"hip": "6.4"}, "ROCm 6.4"),
        ({"xpu": "20250"}, "XPU"),
        ({}, "the CPU only"),
    ],
)
def test_the_build_of_torch(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], build: str) -> None:
    for name in ("cuda", "hip", "xpu"):
        monkeypatch.setattr(torch.version, name, versions.get(name), raising=False)
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: False)
    assert doctor.build_of_torch() == build


@pytest.mark.parametrize(
    ("memory", "bf16", "level", "words"),
    [
        ((20 << 30, 24 << 30), True, "ok", "20.0 of 24.0 GiB free"),
        ((1 << 30, 24 << 30), True, "note", "1.0 of 24.0"),
        ((20 << 30, 24 << 30), False, "note", "no bf16"),
        (None, True, "ok", "a GPU"),
    ],
)
def test_a_device_is_described_by_what_it_can_do(
    monkeypatch: pytest.MonkeyPatch, memory: tuple[int, int] | None, bf16: bool, level: str, words: str
) -> None:
    monkeypatch.setattr(doctor, "memory_of", lambda device: memory)
    monkeypatch.setattr(doctor, "device_name", lambda device: "a GPU")
    monkeypatch.setattr(doctor, "can_compute", lambda device, dtype: bf16)
    finding = describe_device(torch.device("xpu"))
    assert (finding.name, finding.level) == ("xpu", level)
    assert words in finding.value


def test_a_device_that_fails_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: torch.device) -> str:
        raise RuntimeError("no kernel image\nmore")

    monkeypatch.setattr(doctor, "memory_of", lambda device: None)
    monkeypatch.setattr(doctor, "device_name", fail)
    finding = describe_device(torch.device("cuda"))
    assert (finding.level, finding.value) == ("problem", "cannot be used: no kernel image")


# not slow: new weights of the embedded base change the loss, and every user would read that the machine is faulty
def test_the_test_run_gives_the_expected_loss_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("LORASMITH_CACHE", str(tmp_path / "cache"))
    finding = doctor.run_self_test("cpu", doctor.Progress())
    assert finding.level == "ok", finding
    assert not list(tmp_path.glob("lorasmith-doctor-*"))


@pytest.mark.parametrize("loss", [doctor.EXPECTED_LOSS * 1.003, float("nan"), RuntimeError("no kernel image")])
def test_a_device_that_computes_something_else_is_a_problem(monkeypatch: pytest.MonkeyPatch, loss: Any) -> None:
    def train_briefly(device: str, progress: Any) -> tuple[float, float]:
        if isinstance(loss, Exception):
            raise loss
        return loss, 1.0

    monkeypatch.setattr(doctor, "train_briefly", train_briefly)
    finding = doctor.run_self_test("cpu", doctor.Progress())
    assert (finding.level, bool(finding.advice)) == ("problem", True)


def test_a_token_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    done = CliRunner().invoke(app, ["doctor", "--no-test"])
    assert "present" in done.stdout
    assert "hf_secret" not in done.output
    report = json.loads(CliRunner().invoke(app, ["doctor", "--no-test", "--json"]).stdout)
    assert {"name": "hub token", "value": "present", "level": "ok", "advice": ""} in report["findings"]
    assert "hf_secret" not in json.dumps(report)
    names = [finding["name"] for finding in report["findings"]]
    assert {"lorasmith", "torch", "embedded bases", "cpu", "cache", "wandb"} <= set(names)


def test_a_missing_embedded_base_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor.find_embedded_bases() == Finding("embedded bases", "tiny-sd, tiny-flow")
    monkeypatch.setattr(doctor, "folder_of", lambda name: tmp_path if name == "tiny-flow" else doctor.assets() / name)
    finding = doctor.find_embedded_bases()
    assert (finding.value, finding.level) == ("tiny-flow missing", "problem")


@pytest.mark.parametrize(("level", "code"), [("note", 0), ("problem", 1)])
def test_the_exit_code_says_whether_something_is_wrong(
    monkeypatch: pytest.MonkeyPatch, level: doctor.Level, code: int
) -> None:
    diagnosis = Diagnosis([Finding("gpu", "is odd", level, "turn it off")])
    monkeypatch.setattr(doctor, "diagnose", lambda *arguments, **options: diagnosis)
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == code
    assert "turn it off" in done.stdout
