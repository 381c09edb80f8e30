"""Files that diffusers and LyCORIS write, read by us: the UNet answers as theirs does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lorasmith.families.base import Family
from lorasmith.families.load import load
from lorasmith.formats.inspect import inspect
from lorasmith.sampling.loras import load_lora

torch.set_num_threads(1)
Bases = Callable[[str], Path]


def unet_of(folder: Path) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(folder / "unet")


def stir(module: torch.nn.Module, names: Callable[[str], bool]) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if names(name):
                p.add_(torch.randn(p.shape, generator=generator), alpha=0.05)


@torch.no_grad()
def answers(family: Family | None, unet: Any) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    x, t = torch.randn(2, 4, 16, 16, generator=generator), torch.tensor([3, 800])
    context = torch.randn(2, 7, 32, generator=generator)
    if family is not None:
        return family.unet(x, t, context, None, None)
    return unet(x, t, context).sample


def check(folder: Path, path: Path, expected: Tensor) -> None:
    family = load(str(folder), dtype=torch.float32)
    base = answers(family, None)
    adapters = load_lora(family, path)
    found = answers(family, None)
    adapters.detach()
    assert (expected - base).norm() > 1e-3 * base.norm()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.2", "conv1", "proj_in"]


@pytest.mark.slow_except("{}-bare")
@pytest.mark.parametrize("metadata", [True, False], ids=["metadata", "bare"])
@pytest.mark.parametrize(
    "settings", [{}, {"use_dora": True}, pytest.param({"use_rslora": True}, marks=pytest.mark.slow)], ids=str
)
def test_peft_files_of_diffusers(metadata: bool, settings: dict[str, Any], tiny_bases: Bases, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    folder = tiny_bases("sd1")
    unet = unet_of(folder)
    alpha = 3 if metadata else 4  # bare files cannot say an alpha other than the rank
    if not metadata and "use_rslora" in settings:
        pytest.skip("nor a scale")
    unet.add_adapter(LoraConfig(r=4, lora_alpha=alpha, target_modules=TARGETS, **settings))
    stir(unet, lambda n: "lora_" in n)
    extra = {"unet_lora_adapter_metadata": unet.peft_config["default"].to_dict()} if metadata else {}
    StableDiffusionPipeline.save_lora_weights(tmp_path, get_peft_model_state_dict(unet), **extra)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    check(folder, path, answers(None, unet))
    assert inspect(path)["spelling"] == "peft"


def test_the_examples_older_names(tiny_bases: Bases, tmp_path: Path) -> None:
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    folder = tiny_bases("sd1")
    unet = unet_of(folder)
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    stir(unet, lambda n: "lora_" in n)
    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    path = tmp_path / "x.safetensors"
    save_file({f"unet.{name}": tensor.contiguous() for name, tensor in state.items()}, path)
    assert inspect(path)["spelling"] == "diffusers"
    check(folder, path, answers(None, unet))


@pytest.mark.slow_except("lokr*")
@pytest.mark.parametrize(
    ("algo", "options"),
    [
        ("locon", {"use_tucker": True}),
        ("lokr", {"factor": 4}),
        *[
            pytest.param(algo, options, marks=pytest.mark.slow)
            for algo, options in (
                ("locon", {}),
                ("locon", {"dora_wd": True, "wd_on_output": False}),
                ("loha", {}),
                ("diag-oft", {}),
                ("boft", {}),
                ("full", {}),
                ("glora", {}),
            )
        ],
    ],
    ids=str,
)
def test_files_of_lycoris(algo: str, options: dict[str, Any], tiny_bases: Bases, tmp_path: Path) -> None:
    """Its own prefix, `lycoris_`, as SimpleTuner writes it."""
    lycoris = pytest.importorskip("lycoris")
    folder = tiny_bases("sd1")
    unet = unet_of(folder)
    lycoris.LycorisNetwork.apply_preset({"target_module": ["Attention", "FeedForward", "ResnetBlock2D"]})
    network = lycoris.create_lycoris(unet, 1.0, linear_dim=4, linear_alpha=2, algo=algo, **options)
    network.apply_to()
    stir(network, lambda n: True)
    network.eval()
    expected = answers(None, unet)
    path = tmp_path / "x.safetensors"
    save_file({k: v.detach().contiguous().clone() for k, v in network.state_dict().items()}, path)
    check(folder, path, expected)
    assert inspect(path)["spelling"] == "SimpleTuner"
