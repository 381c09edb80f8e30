"""What `lorasmith doctor` finds out about a machine: devices, torch's build, space, optional parts, and a test run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lorasmith.core.devices import available_backends, can_compute, device_name, memory_of, pick_device
from lorasmith.core.embedded_bases import DEFAULT_BASE, EMBEDDED_BASES, folder_of
from lorasmith.core.errors import LorasmithError
from lorasmith.core.package import VERSION, assets
from lorasmith.core.progress import Progress
from lorasmith.data.cache import default_folder
from lorasmith.training.config import load_config
from lorasmith.training.session import train

Level = Literal["ok", "note", "problem"]
GIB = 2**30
LOW_DISK = 10 * GIB
"""A full-size base has 2 to 7 GB, a data set's cache and checkpoints about as much again."""
LOW_MEMORY = 4 * GIB

DEVICE_NODES = {
    "an NVIDIA GPU": ("dev/nvidia0", "dev/nvidiactl", "proc/driver/nvidia/version", "dev/dxg"),
    "an AMD GPU": ("dev/kfd",),
}
"""Files by which Linux shows that a driver has found a GPU, whatever torch says (`dxg`: inside Windows)."""
OPTIONAL_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "LORASMITH_CACHE", "HF_HOME")
"""Environment variables that explain what is found. None of them holds a secret."""

SELF_TEST_STEPS = 10
EXPECTED_LOSS = 0.474743
"""Mean loss of the steps of the self-test, in float32; computed on a CPU with today's weights of `tiny-sd`."""
TOLERANCE = 2e-3
"""Relative; GPUs round convolutions to TF32."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    value: str
    level: Level = "ok"
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All lines, and whether none of them is a problem."""

    findings: list[Finding]

    @property
    def ok(self) -> bool:
        return all(finding.level != "problem" for finding in self.findings)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {"ok": self.ok, "findings": [asdict(finding) for finding in self.findings]}


def diagnose(device: str = "auto", *, self_test: bool = True, progress: Progress | None = None) -> Diagnosis:
    """Look at this machine. `device`: on which the self-test trains, as in a config. Nothing is raised: what does not
    work is a finding."""
    findings = [*software(), *hardware(Path("/"), os.environ), *space(), *optional_parts(), *hub()]
    if self_test:
        findings.append(run_self_test(device, progress or Progress()))
    return Diagnosis(findings)


def software() -> Iterator[Finding]:
    """Versions, for what torch was built, and the bases that come with the package."""
    yield Finding(
        "lorasmith", f"{VERSION}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    )
    yield Finding("torch", f"{torch.__version__}, built for {build_of_torch()}")
    yield find_embedded_bases()


def find_embedded_bases() -> Finding:
    """The base models that come with the package."""
    missing = [name for name in EMBEDDED_BASES if not (folder_of(name) / "model_index.json").is_file()]
    if missing:
        return Finding("embedded bases", f"{', '.join(missing)} missing", "problem", "reinstall lorasmith")
    return Finding("embedded bases", ", ".join(EMBEDDED_BASES))


def build_of_torch() -> str:
    """`the CPU only`, `CUDA 12.8`, `ROCm 6.4`, `XPU` or `MPS`."""
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    if getattr(torch.version, "xpu", None):
        return "XPU"
    return "MPS" if torch.backends.mps.is_built() else "the CPU only"


def hardware(root: Path, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Each device that torch finds, or why it finds none. `root`: the folder `/`."""
    backends = available_backends()
    for name in backends:
        yield describe_device(torch.device(name))
    if not backends:
        yield explain_missing_device(root, environment)
    cpu = describe_device(torch.device("cpu"))
    yield Finding("cpu", f"{cpu.value}; {os.cpu_count()} cores", cpu.level, cpu.advice)
    for name in OPTIONAL_VARIABLES:
        if name in environment:
            yield Finding(name, repr(environment[name]), "note")


def describe_device(device: torch.device) -> Finding:
    """Name, memory and what it can compute."""
    try:
        memory = memory_of(device)
        text = device_name(device)
        bf16 = can_compute(device, torch.bfloat16)
    except RuntimeError as error:
        return Finding(device.type, f"cannot be used: {first_line(error)}", "problem", "restart, or update the driver")
    if memory is not None:
        text += f", {memory[0] / GIB:.1f} of {memory[1] / GIB:.1f} GiB free"
    if not bf16:
        return Finding(device.type, f"{text}, no bf16", "note", 'set precision = "fp16" or "fp32"')
    if memory is not None and memory[0] < LOW_MEMORY:
        return Finding(device.type, text, "note", "close other programs; SD 1.5 needs about 4 GiB")
    return Finding(device.type, text)


def explain_missing_device(root: Path, environment: Mapping[str, str]) -> Finding:
    """Why torch has no device but the CPU, although there may be a GPU."""
    gpus = [gpu for gpu, nodes in DEVICE_NODES.items() if any((root / node).exists() for node in nodes)]
    if not gpus and shutil.which("nvidia-smi"):
        gpus = ["an NVIDIA GPU"]
    if not gpus:
        return Finding("gpu", "none found; training runs on the CPU", "note", "SD 1.5 needs a GPU to be practical")
    gpu = gpus[0]
    if build_of_torch() == "the CPU only":
        return Finding(
            "gpu",
            f"there is {gpu}, but this torch is built for the CPU only, so you are on the CPU",
            "problem",
            "install the build of torch for this GPU: pytorch.org, Get started",
        )
    hidden = [name for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES") if environment.get(name) in ("", "-1")]
    if hidden:
        return Finding(
            "gpu", f"there is {gpu}, but {hidden[0]} hides it", "problem", f"unset {hidden[0]}, or set it to 0"
        )
    return Finding(
        "gpu",
        f"there is {gpu}, but torch ({build_of_torch()}) cannot use it: {driver_error()}",
        "problem",
        "update the driver, or install a build of torch for the driver's version",
    )


def driver_error() -> str:
    """What torch says when it is made to use CUDA."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return first_line(error)
    return "no device answers"


def space() -> Iterator[Finding]:
    """Free space where files go: here, in the cache, and in the hub's cache."""
    from huggingface_hub import constants

    folders = {"this folder": Path.cwd(), "cache": default_folder(), "hub cache": Path(constants.HF_HUB_CACHE)}
    for name, folder in folders.items():
        # a folder that does not exist yet is made on the disk of the one around it
        existing = next((path for path in (folder, *folder.parents) if path.is_dir()), Path("/"))
        free = shutil.disk_usage(existing).free
        text = f"{folder}: {free / GIB:.1f} GiB free"
        if name != "this folder" and folder.is_dir():
            text += f", {size_of(folder) / GIB:.2f} GiB used"
        if not os.access(existing, os.W_OK):
            yield Finding(name, f"{text}, not writable", "problem", "choose another folder, or change its permissions")
        elif free < LOW_DISK:
            yield Finding(name, text, "note", "a full-size base and its checkpoints need about 10 GiB")
        else:
            yield Finding(name, text)


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder; links are not followed."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(parent, name)
            if not os.path.islink(path):
                total += os.path.getsize(path)
    return total


def optional_parts() -> Iterator[Finding]:
    """What Lorasmith's extras need, from the metadata of the package: the version, or how to install it."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(text) for text in importlib.metadata.requires("lorasmith") or ()]
    except importlib.metadata.PackageNotFoundError:
        return
    for requirement in requirements:
        extra = extra_of(str(requirement.marker or ""))
        if extra in ("", "dev") or requirement.name == "lorasmith":
            continue
        install = f"pip install 'lorasmith[{extra}]'"
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(requirement.name, "not installed", "note", f"for [{extra}]: {install}")
            continue
        if requirement.specifier.contains(version, prereleases=True):
            yield Finding(requirement.name, version)
        else:
            text = f"{version}, but Lorasmith needs {requirement.specifier}"
            yield Finding(requirement.name, text, "problem", install)


def extra_of(marker: str) -> str:
    """The extra that a marker names: `8bit` of `extra == "8bit"`."""
    _, found, rest = marker.partition("extra == ")
    return rest.strip("'\") ") if found else ""


def hub() -> Iterator[Finding]:
    """Whether there is a token of the hub. It is never printed."""
    from huggingface_hub import get_token

    present = get_token() is not None
    yield Finding("hub token", "present" if present else "none; needed only for private models and uploads")


def run_self_test(device_name: str, progress: Progress) -> Finding:
    """Train a few steps on the embedded base, and compare the loss with the known one."""
    name = "self-test"
    try:
        device = pick_device(device_name)
        loss, seconds = train_briefly(device_name, progress)
    except (LorasmithError, RuntimeError) as error:
        return Finding(name, f"failed: {first_line(error)}", "problem", 'try device = "cpu"')
    text = f"{SELF_TEST_STEPS} steps on {device} in {seconds:.1f} s, loss {loss:.6f}, expected {EXPECTED_LOSS:.6f}"
    # a loss that is not a number is outside of every tolerance
    if abs(loss - EXPECTED_LOSS) <= TOLERANCE * EXPECTED_LOSS:
        return Finding(name, text)
    advice = 'this device computes something else; train with device = "cpu", or update torch and the driver'
    return Finding(name, text, "problem", advice)


def train_briefly(device: str, progress: Progress) -> tuple[float, float]:
    """Mean loss and seconds of the steps of a run in a temporary folder, which leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix="lorasmith-doctor-", ignore_cleanup_errors=True) as folder:
        table = {
            "base": DEFAULT_BASE,
            "output": f"{folder}/run",
            "name": "self-test",
            "steps": SELF_TEST_STEPS,
            "trigger": ["garp"],
            "device": device,
            "data": {
                "subsets": [{"images": str(assets() / "garp"), "part": [0, 6]}],
                "resolution": 64,
                "batch_size": 2,
                "cache_dir": f"{folder}/cache",
            },
            "adapter": {"rank": 4},
            "optimizer": {"lr": 1e-3},
            "log": {"tensorboard": False},
        }
        with progress.track("self-test", 1) as advance:
            result = train(load_config(table), accept_remarks=True)
            advance(1, "")
        lines = (Path(folder) / "run" / "events.jsonl").read_text(encoding="utf-8").splitlines()
        losses = [event["loss"] for event in map(json.loads, lines) if event["event"] == "step"]
    if not losses or None in losses:
        return float("nan"), result.seconds
    return sum(losses) / len(losses), result.seconds


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
