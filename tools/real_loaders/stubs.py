"""Stand-ins for the parts of A1111 and Forge that are not about LoRA."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

STUBS = (
    *("gradio", "modules", "modules.shared", "modules.devices", "modules.sd_models", "modules.errors"),
    *("modules.scripts", "modules.sd_hijack", "modules.textual_inversion", "modules.cache", "modules.hashes"),
    *("modules.textual_inversion.textual_inversion", "modules.models", "modules.models.sd3"),
    *("modules.models.sd3.mmdit", "modules.patches", "modules.extra_networks"),
)


def stub_lists() -> None:
    """Stand-ins that the extensions look into when they are imported."""
    shared = sys.modules["modules"].shared
    shared.cmd_opts.lora_dir = tempfile.mkdtemp()
    shared.walk_files = lambda *a, **k: []
    sys.modules["modules"].sd_models.read_state_dict = load_file
    mmdit = sys.modules["modules.models.sd3.mmdit"]
    mmdit.QkvLinear = type("QkvLinear", (nn.Linear,), {})  # type: ignore[attr-defined]
    sys.modules["modules"].models.sd3.mmdit = mmdit
    sys.modules["modules"].devices.cpu = torch.device("cpu")
    sys.modules["modules"].devices.dtype = torch.float32


@contextlib.contextmanager
def on_path(folder: Path) -> Any:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
