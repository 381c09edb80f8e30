"""A plug-in written for the paths before version 0.2 still loads, and says what to change."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from lorasmith.moved_modules import MOVED, RENAMED, new_path

OLD_PLUGIN = """
from typing import Literal
from lorasmith.data.transforms import CaptionTransform, Moment
from lorasmith.train.hooks.base import Hook
from lorasmith.train.objectives.base import Objective
from lorasmith.infer.evaluate.base import Scorer
import lorasmith
from lorasmith.training.hooks import Hook as NewHook
assert Hook is NewHook
class Bell(Hook):
    kind: Literal["bell"] = "bell"
    def act(self, run): ...
from lorasmith.core.registry import registered
assert registered(NewHook)["bell"] is Bell
assert callable(lorasmith.train)
try:
    lorasmith.train("no-such.toml")
except lorasmith.LorasmithError as error:
    print(error)
"""


@pytest.mark.parametrize("old", MOVED)
def test_every_old_path_leads_to_a_module(old: str) -> None:
    path = new_path(old)
    assert path is not None
    if path.endswith("triton_group_norm"):
        pytest.importorskip("triton")
    import_module(f"lorasmith.{path}")


@pytest.mark.parametrize("module", RENAMED)
def test_every_old_name_leads_to_a_value(module: str) -> None:
    for old in RENAMED[module]:
        with pytest.warns(FutureWarning, match="is now called"):
            assert getattr(import_module(f"lorasmith.{module}"), old) is not None


@pytest.mark.slow
def test_a_plugin_with_old_paths_loads_and_is_told_the_new_ones(tmp_path: Path) -> None:
    plugin = tmp_path / "old_plugin.py"
    plugin.write_text(OLD_PLUGIN, encoding="utf-8")
    done = subprocess.run([sys.executable, str(plugin)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no-such.toml" in done.stdout
    assert "lorasmith.train.hooks.base is now lorasmith.training.hooks.base" in done.stderr


def test_an_adapter_with_old_member_names_works_and_is_told_the_new_ones() -> None:
    from lorasmith.adapters.base import Adapter, LayerSpec

    with pytest.warns(FutureWarning, match=r"Adapter\.words is now called tensor_names"):

        class Old(Adapter):
            words: ClassVar[dict[str, str]] = {"gain": "gain.weight"}

            def __init__(self, layer: LayerSpec) -> None:
                super().__init__(layer)
                self.gain = nn.Parameter(torch.ones(3))

            def delta(self, base: Tensor | None = None) -> Tensor:
                return self.thin(self.gain)  # type: ignore[no-any-return]

    adapter = Old(LayerSpec("unet.x", "norm", (3,)))
    assert adapter.tensors().keys() == {"gain.weight"}
    with pytest.warns(FutureWarning, match=r"Adapter\.thin is now called dropout_delta"):
        assert torch.equal(adapter.delta(), adapter.gain)
