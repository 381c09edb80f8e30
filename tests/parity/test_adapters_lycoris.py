"""The changes that our adapters make against those of LyCORIS with the same tensors, and the other way round.

LyCORIS 4.1.3 applies alpha / rank twice in `get_diff_weight` of LoHa and LoKr, while its forward pass applies it once;
so what it trains is read off its forward pass: the response of the layer to unit inputs.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorasmith.adapters.base import Adapter, AdapterConfig
from lorasmith.adapters.boft import BOFT, butterfly_block_size
from lorasmith.adapters.dora import DoRA
from lorasmith.adapters.dylora import DyLoRA
from lorasmith.adapters.factored_adapter import FactoredAdapter
from lorasmith.adapters.full import Full
from lorasmith.adapters.glora import GLoRA
from lorasmith.adapters.ia3 import IA3
from lorasmith.adapters.layer import spec_of
from lorasmith.adapters.loha import LoHa
from lorasmith.adapters.lokr import LoKr, factorization
from lorasmith.adapters.lora import LoRA
from lorasmith.adapters.norm import Norm
from lorasmith.adapters.oft import OFT
from lorasmith.core.rng import torch_generator

pytest.importorskip("lycoris")
torch.set_num_threads(1)

LAYERS: dict[str, Any] = {
    "linear": nn.Linear(24, 32),
    "conv1x1": nn.Conv2d(16, 32, 1),
    "conv3x3": nn.Conv2d(16, 32, 3, padding=1),
    "strided": nn.Conv2d(16, 32, 3, stride=2, padding=1),
}
S = {"rank": 4, "alpha": 2.0}
CASES: list[tuple[AdapterConfig, str, dict[str, Any]]] = [
    (LoRA(**S), "LoConModule", {}),
    (LoRA(**S, tucker=True), "LoConModule", {"use_tucker": True}),
    (LoRA(**S, scalar=True), "LoConModule", {"use_scalar": True}),
    (LoRA(**S, rank_stabilised=True), "LoConModule", {"rs_lora": True}),
    (DoRA(**S), "LoConModule", {"weight_decompose": True, "wd_on_out": False}),
    (DoRA(**S, axis="output"), "LoConModule", {"weight_decompose": True, "wd_on_out": True}),
    (LoHa(**S), "LohaModule", {}),
    (LoHa(**S, tucker=True), "LohaModule", {"use_tucker": True}),
    (DoRA(**S, over="loha"), "LohaModule", {"weight_decompose": True, "wd_on_out": False}),
    (LoKr(rank=2, alpha=3.0, factor=4), "LokrModule", {"factor": 4}),
    (LoKr(rank=1, alpha=0.5, factor=4, decompose_both=True), "LokrModule", {"factor": 4, "decompose_both": True}),
    (LoKr(rank=1, alpha=0.5, factor=4, tucker=True), "LokrModule", {"factor": 4, "use_tucker": True}),
    (LoKr(**S, factor=4, full_matrix=True), "LokrModule", {"factor": 4, "full_matrix": True}),
    (OFT(block_size=4), "DiagOFTModule", {"lora_dim": 4}),
    (OFT(block_size=4, constraint=0.01), "DiagOFTModule", {"lora_dim": 4, "constraint": 0.01}),
    (BOFT(block_size=4), "ButterflyOFTModule", {"lora_dim": 4}),
    (BOFT(block_size=4, constraint=0.01), "ButterflyOFTModule", {"lora_dim": 4, "constraint": 0.01}),
    (GLoRA(**S), "GLoRAModule", {}),
    (IA3(layers="*"), "IA3Module", {}),
    (Full(layers="*", bias=True), "FullModule", {}),
]


def label(value: object) -> str:
    if isinstance(value, AdapterConfig):
        return " ".join(f"{k}={v}" for k, v in value.model_dump(exclude_defaults=True).items())
    return str(value)


def theirs_for(config: AdapterConfig, name: str, settings: dict[str, Any], layer: nn.Module) -> Any:
    """A LyCORIS module of the same settings, its tensors random."""
    from lycoris import modules  # noqa: F401
    from lycoris.modules import boft, diag_oft, full, glora, ia3, locon, loha, lokr

    found = {k: v for m in (boft, diag_oft, full, glora, ia3, locon, loha, lokr) for k, v in vars(m).items()}
    rank = getattr(config, "rank", 4)
    made = {"lora_dim": rank, "alpha": getattr(config, "alpha", None) or rank} | settings
    module = found[name]("x", layer, 1.0, **made)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in module.parameters():
            if not any(p is q for q in layer.parameters()):
                p.add_(torch.randn(p.shape, generator=generator) * 0.2)
    return module.eval()


def trained_weight(module: Any, layer: nn.Module, shape: torch.Size) -> Tensor:
    """The weight that LyCORIS' forward pass uses: its answers to unit inputs, without the bias."""
    with torch.no_grad():
        if isinstance(layer, nn.Linear):
            return (module(torch.eye(layer.in_features)) - module(torch.zeros(1, layer.in_features))).T
        assert isinstance(layer, nn.Conv2d)
        kh, kw = layer.kernel_size
        inputs = torch.eye(layer.in_channels * kh * kw).view(-1, layer.in_channels, kh, kw)
        return torch.stack([_centre(module, layer, unit) for unit in inputs], 1).view(shape)


def _centre(module: Any, layer: nn.Conv2d, patch: Tensor) -> Tensor:
    """The output at a place whose receptive field is exactly `patch` (C, kh, kw)."""
    kh, kw = layer.kernel_size
    image = torch.zeros(1, layer.in_channels, kh + 4, kw + 4)
    (ph, pw), (sh, sw) = (1, 1) if layer.padding == (1, 1) else (0, 0), layer.stride
    image[0, :, 2 * sh - ph : 2 * sh - ph + kh, 2 * sw - pw : 2 * sw - pw + kw] = patch
    return (module(image) - module(torch.zeros_like(image)))[0, :, 2, 2]


def file_tensors(module: Any) -> dict[str, Tensor]:
    """What LyCORIS saves of a module."""
    found = module.custom_state_dict() or module.state_dict()
    return {k: v.detach().clone() for k, v in found.items() if not k.startswith("org_")}


def error(ours: Tensor, theirs: Tensor, base: Tensor) -> float:
    return float((ours - theirs).norm() / (theirs - base).norm())


@pytest.mark.parametrize("layer_name", LAYERS)
@pytest.mark.parametrize(("config", "name", "settings"), CASES, ids=label)
def test_their_tensors_give_their_weight(
    config: AdapterConfig, name: str, settings: dict[str, Any], layer_name: str
) -> None:
    torch.manual_seed(0)
    layer = copy.deepcopy(LAYERS[layer_name])
    module = theirs_for(config, name, settings, layer)
    shape = layer.weight.shape
    module.apply_to()
    expected = trained_weight(layer, layer, shape)
    words = file_tensors(module)
    module.restore()
    spec = spec_of("unet.x", layer)
    assert spec is not None
    base = layer.weight.detach()
    ours = config.restore(spec, base, words)
    assert error(ours.weight(base).detach(), expected, base) < 2e-5


@pytest.mark.parametrize("layer_name", LAYERS)
@pytest.mark.parametrize(("config", "name", "settings"), CASES, ids=label)
def test_our_tensors_have_their_words_and_shapes(
    config: AdapterConfig, name: str, settings: dict[str, Any], layer_name: str
) -> None:
    torch.manual_seed(0)
    layer = LAYERS[layer_name]
    spec = spec_of("unet.x", layer)
    assert spec is not None
    if isinstance(config, IA3) and layer_name != "linear":
        settings = {"train_on_input": True}  # of convolutions we always scale the inputs
    theirs = file_tensors(theirs_for(config, name, settings, layer))
    ours: Adapter | None = config.build(spec, layer.weight.detach(), torch_generator(1, "x"))
    assert ours is not None
    shapes = {k: tuple(v.shape) for k, v in ours.tensors().items()}
    assert shapes == {k: tuple(v.shape) for k, v in theirs.items() if k in shapes}
    assert {k for k in theirs if k not in shapes} <= {"alpha", "scalar"}
    if isinstance(ours, FactoredAdapter) and not settings.get("full_matrix"):
        assert ours.alpha == pytest.approx(float(theirs["alpha"]))


def test_lokr_factors_on_a_grid() -> None:
    from lycoris.functional import factorization as theirs

    for size in [*range(1, 300), 320, 640, 768, 1280, 1536, 2048, 2560, 3072, 5120, 10240]:
        for factor in (-1, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64):
            assert factorization(size, factor) == theirs(size, factor), (size, factor)


def test_boft_blocks_on_a_grid() -> None:
    from lycoris.functional import power2factorization

    for size in [*range(2, 300, 2), 320, 640, 768, 1280, 1536, 2048, 2560, 3072, 5120, 10240]:
        for factor in (2, 4, 6, 8, 10, 16, 20, 32, 64):
            assert butterfly_block_size(size, factor) == power2factorization(size, factor)[0], (size, factor)


def test_norms() -> None:
    from lycoris.modules.norms import NormModule

    torch.manual_seed(0)
    layer = nn.GroupNorm(4, 16)
    module = NormModule("x", layer)
    with torch.no_grad():
        module.w_norm.normal_()
        module.b_norm.normal_()
    spec = spec_of("unet.x", layer)
    assert spec is not None
    words = {k: v for k, v in module.state_dict().items() if not k.startswith("org_")}
    ours = Norm().restore(spec, layer.weight, words)
    module.apply_to()
    x = torch.randn(2, 16, 4, 4)
    expected = layer(x)
    module.restore()
    bias = ours.bias_delta()
    assert bias is not None
    found = nn.functional.group_norm(x, 4, ours.weight(layer.weight), layer.bias + bias, layer.eps)
    torch.testing.assert_close(found, expected)


def test_dylora_at_every_rank() -> None:
    """The change of a step with b ranks, of blocks of 1: LyCORIS divides by blocks, the paper by ranks."""
    from lycoris.modules.dylora import DyLoraModule

    layer = nn.Linear(12, 10)
    module = DyLoraModule("x", layer, lora_dim=6, alpha=3, block_size=1)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in (*module.up_list, *module.down_list):
            p.copy_(torch.randn(p.shape, generator=generator))
    spec = spec_of("unet.x", layer)
    assert spec is not None
    words = module.custom_state_dict()
    ours: Any = DyLoRA(boost=1.0).restore(spec, layer.weight, words)
    ours.train()
    for rank in range(6):
        ours.begin((rank + 0.5) / 6)
        expected, _ = module.get_diff_weight(rank=rank)
        torch.testing.assert_close(ours.forward_weight(torch.zeros(10, 12)), expected)


@pytest.mark.parametrize(
    "args", [["algo=lokr", "preset=unet-convblock-only"], ["algo=loha", "conv_dim=0", "preset=attn-mlp"]]
)
def test_norms_beside_another_algorithm_are_those_of_lycoris(args: list[str]) -> None:
    """The same norms, and no other layer than its network has on the same base with train_norm."""
    from diffusers import UNet2DConditionModel
    from lycoris.kohya import create_network
    from transformers import CLIPTextModel

    from lorasmith.compat.script import find_script
    from lorasmith.core.package import assets
    from lorasmith.families.load import load
    from lorasmith.training.config import load_config
    from lorasmith.training.setup.build import create_adapters

    given = [*args, "train_norm=True"]
    folder = assets() / "tiny-sd"
    unet: Any = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    text: Any = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder")
    settings: dict[str, Any] = dict(item.split("=") for item in given)
    network = create_network(1.0, 4, 1.0, None, text, unet, **settings)
    theirs = {m.lora_name for m in (*network.unet_loras, *network.text_encoder_loras)}
    theirs = {name.replace("lora_te_encoder_", "lora_te_text_model_encoder_") for name in theirs}
    values = {"pretrained_model_name_or_path": "tiny-sd", "train_data_dir": "elsewhere", "resolution": "64"}
    values |= {"network_module": "lycoris.kohya", "network_dim": 4, "network_args": given, "output_name": "x"}
    script: Any = find_script("train_network")
    config = load_config(script.convert(script.read(values, [])).config)
    family = load("tiny-sd")
    adapters = create_adapters(config, family)
    ours = {family.kohya_name(name): adapter for name, adapter in adapters.adapters.items()}
    assert ours.keys() <= theirs
    norms = {name for name, adapter in ours.items() if "w_norm" in adapter.tensors()}
    assert norms == {m.lora_name for m in network.unet_loras if type(m).__name__ == "NormModule"}
    assert len(norms) > 20
    adapters.detach()
