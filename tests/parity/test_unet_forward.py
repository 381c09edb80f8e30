"""Our UNet against diffusers': same names, same numbers, same gradients of LoRA weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorasmith.core.errors import LorasmithError
from lorasmith.families.stable_diffusion.source import shipped_config
from lorasmith.families.stable_diffusion.unet import UNet
from lorasmith.families.stable_diffusion.unet_config import UNetConfig

KINDS = ("sd1", "sd2", "sdxl")


def config(kind: str, tiny: bool = True) -> dict[str, Any]:
    from tools import make_random_sd

    return make_random_sd.configs(kind, tiny)["unet"]


def peer(kind: str, tiny: bool = True) -> Any:
    """Diffusers' UNet with random weights, biases and norms too."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(3)
    model: Any = UNet2DConditionModel.from_config(config(kind, tiny))
    for name, value in model.state_dict().items():
        if name.endswith("bias") or "norm" in name:
            value.add_(torch.randn_like(value), alpha=0.1)
    return model.requires_grad_(False).eval()


def ours(model: Any) -> UNet:
    with torch.device("meta"):
        unet = UNet(UNetConfig.from_diffusers(model.config))
    unet.load_state_dict(model.state_dict(), assign=True)
    unet.like = torch.empty(0)
    return unet.requires_grad_(False)


def inputs(unet: UNet, size: tuple[int, int] = (8, 12), batch: int = 2) -> dict[str, Tensor]:
    c, g = unet.config, torch.Generator().manual_seed(5)
    known = {
        "x": torch.randn(batch, 4, *size, generator=g),
        "t": torch.tensor([3, 700])[:batch],
        "context": torch.randn(batch, 7, c.context, generator=g),
    }
    if c.pooled:
        known["pooled"] = torch.randn(batch, c.pooled - 6 * c.size_embed, generator=g)
        known["time_ids"] = torch.randint(0, 1024, (batch, 6), generator=g).float()
    return known


def theirs(model: Any, known: dict[str, Tensor]) -> Tensor:
    added = {"text_embeds": known["pooled"], "time_ids": known["time_ids"]} if "pooled" in known else None
    return model(known["x"], known["t"], known["context"], added_cond_kwargs=added).sample


@pytest.mark.parametrize("kind", KINDS)
def test_forward_equals_diffusers(kind: str) -> None:
    model = peer(kind)
    unet = ours(model)
    for size in ((8, 8), (16, 8), (12, 20)):  # the last is odd on the lower levels
        known = inputs(unet, size)
        torch.testing.assert_close(unet(**known), theirs(model, known), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_forward_equals_diffusers_in_full_size(kind: str) -> None:
    model = peer(kind, tiny=False)
    unet = ours(model)
    known = inputs(unet, (16, 16), batch=1)
    with torch.no_grad():
        expected = theirs(model, known)
        torch.testing.assert_close(unet(**known), expected, rtol=0, atol=1e-5 * max(1.0, expected.abs().max().item()))


@pytest.mark.parametrize("kind", KINDS)
def test_parameter_names_and_shapes_of_the_published_models(kind: str) -> None:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        model: Any = UNet2DConditionModel.from_config(shipped_config(kind, "unet"))
        unet = UNet(UNetConfig.from_diffusers(shipped_config(kind, "unet")))
    expected = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in unet.state_dict().items()} == expected


class Wrapped(nn.Module):
    """A LoRA in the place of a layer, as an adapter would stand."""

    def __init__(self, base: nn.Module, down: nn.Module, up: nn.Module, scale: float) -> None:
        super().__init__()
        self.base, self.down, self.up, self.scale = base, down, up, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * self.up(self.down(x))


def with_lora(model: Any, unet: UNet) -> list[tuple[str, nn.Parameter, nn.Parameter]]:
    """PEFT LoRA on diffusers' UNet and the same weights on ours; returns (name, theirs, ours)."""
    from peft import LoraConfig, inject_adapter_in_model

    words = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2"]
    words += ["time_emb_proj", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "conv_in", "conv_out"]
    words += ["time_embedding.linear_1", "time_embedding.linear_2"]
    torch.manual_seed(9)
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=3, target_modules=words, init_lora_weights=False), model)
    pairs: list[tuple[str, nn.Parameter, nn.Parameter]] = []
    for name, module in list(model.named_modules()):
        if hasattr(module, "lora_A"):
            down, up = (copy.deepcopy(getattr(module, w)["default"]) for w in ("lora_A", "lora_B"))
            parent, _, leaf = name.rpartition(".")
            owner = unet.get_submodule(parent)
            setattr(owner, leaf, Wrapped(unet.get_submodule(name), down, up, 1.5))
            pairs.append((name + ".A", module.lora_A["default"].weight, down.weight))
            pairs.append((name + ".B", module.lora_B["default"].weight, up.weight))
    return pairs


CASES = [
    # checkpointing is of the blocks, which all kinds share
    pytest.param(kind, checkpointing, marks=pytest.mark.slow if checkpointing and kind != "sd1" else ())
    for kind in KINDS
    for checkpointing in (False, True)
]


@pytest.mark.slow_except("sd1-True")
@pytest.mark.parametrize(("kind", "checkpointing"), CASES)
def test_lora_gradients_equal_peft(kind: str, checkpointing: bool) -> None:
    model = peer(kind)
    unet = ours(model)
    pairs = with_lora(model, unet)
    assert len(pairs) > 300
    unet.checkpointing = checkpointing
    known = inputs(unet)
    target = torch.randn_like(known["x"])
    for output in (theirs(model, known), unet(**known)):
        (output - target).square().mean().backward()
    scale = max(p.grad.abs().max().item() for _, p, _ in pairs if p.grad is not None)
    for name, expected, found in pairs:
        assert expected.grad is not None, name
        assert found.grad is not None, name
        assert (expected.grad - found.grad).abs().max() < 1e-5 * scale, name


def test_a_context_for_each_cross_attention() -> None:
    unet = ours(peer("sdxl"))
    known = inputs(unet)
    layers = len(unet.cross_attentions)
    same = known["context"][:, None].expand(-1, layers, -1, -1)
    torch.testing.assert_close(unet(**known | {"context": same}), unet(**known), rtol=0, atol=0)
    with pytest.raises(ValueError, match="cross-attention layers"):
        unet(**known | {"context": same[:, 1:]})


@pytest.mark.parametrize("kind", KINDS)
def test_cross_attentions_are_named_in_the_order_in_which_they_run(kind: str) -> None:
    unet = ours(peer(kind))
    ran: list[str] = []
    for name in unet.cross_attentions:
        unet.get_submodule(f"{name}.to_k").register_forward_hook(lambda *_, n=name: ran.append(n))
    unet(**inputs(unet))
    assert tuple(ran) == unet.cross_attentions
    assert len(ran) == sum(name.endswith("attn2") for name, _ in unet.named_modules())


def test_each_context_reaches_its_own_layer() -> None:
    unet = ours(peer("sd1"))
    known = inputs(unet, batch=1)
    contexts = torch.stack([known["context"] * (i + 1) for i in range(16)], 1)
    seen: dict[str, Tensor] = {}
    for name in unet.cross_attentions:
        layer = unet.get_submodule(f"{name}.to_k")
        layer.register_forward_hook(lambda _, args, __, n=name: seen.update({n: args[0]}))
    unet(**known | {"context": contexts})
    for i, name in enumerate(unet.cross_attentions):
        assert torch.equal(seen[name], contexts[:, i])


def test_checkpointing_keeps_less_for_the_backward_pass() -> None:
    unet = ours(peer("sd1"))
    known = inputs(unet, (16, 16))
    known["x"].requires_grad_()

    def kept(on: bool) -> int:
        total, seen = 0, set()

        def pack(x: Tensor) -> Tensor:
            nonlocal total
            if x.data_ptr() not in seen:
                seen.add(x.data_ptr())
                total += x.nbytes
            return x

        unet.checkpointing = on
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            unet(**known)
        return total

    assert kept(True) < 0.5 * kept(False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_it_computes_in_the_dtype_of_its_weights(dtype: torch.dtype) -> None:
    model = peer("sdxl")
    known = inputs(ours(model))
    expected = ours(model)(**known)
    unet = ours(model).to(dtype)
    found = unet(**known)
    assert found.dtype == dtype == unet.dtype
    assert (found.float() - expected).norm() < (0.05 if dtype == torch.bfloat16 else 1e-5) * expected.norm()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"mid_block_type": None}, "mid_block_type"),
        ({"down_block_types": ["AttnDownBlock2D"] * 4}, "AttnDownBlock2D"),
        ({"up_block_types": ["UpBlock2D"] * 4}, "mirror"),
        ({"attention_head_dim": [1, 2]}, "attention_head_dim"),
    ],
)
def test_other_architectures_are_refused_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(LorasmithError, match=words):
        UNetConfig.from_diffusers(config("sd1") | change)


def test_sdxl_without_its_sizes_says_so() -> None:
    unet = ours(peer("sdxl"))
    known = {k: v for k, v in inputs(unet).items() if k in ("x", "t", "context")}
    with pytest.raises(ValueError, match="time ids"):
        unet(**known)
