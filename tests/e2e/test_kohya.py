"""Twelve configs of kohya's script, in the styles that people have them, train as they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from answers import ROOT, Program
from safetensors import safe_open
from safetensors.torch import load_file

GARP = ROOT / "src/lorasmith/assets/garp"
OTHERS = ROOT / "src/lorasmith/assets/others"
CONFIGS = ROOT / "tests/e2e/kohya"
TRANSFORMER = ("Transformer2DModel",)
RESIDUAL = ("ResnetBlock2D", "Downsample2D", "Upsample2D")
TEXT = ("CLIPAttention", "CLIPSdpaAttention", "CLIPMLP")
UNET_ONLY = {"gui_conv", "blocks"}
CONVOLUTIONS = {"colab_locon", "gui_conv", "scripts_cn"}
FAST = {"colab", "gui", "scripts_cn"}
NAMES = sorted(path.stem for path in CONFIGS.glob("*.toml") if not path.stem.endswith("_dataset"))


def names_by_class(model: torch.nn.Module, classes: tuple[str, ...], prefix: str) -> dict[str, tuple[int, ...]]:
    """The original's rule: every linear and convolution inside modules of these classes."""
    found = {}
    for name, module in model.named_modules():
        if type(module).__name__ in classes:
            for inner, child in module.named_modules():
                if isinstance(child, torch.nn.Linear | torch.nn.Conv2d):
                    path = f"{prefix}.{name}.{inner}" if inner else f"{prefix}.{name}"
                    found[path.replace(".", "_")] = tuple(child.weight.shape)
    return found


@pytest.fixture(scope="module")
def modules() -> Callable[[str], dict[str, tuple[int, ...]]]:
    """Expected modules with the shapes of their weights, from diffusers' and transformers' own models."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    folder = ROOT / "src/lorasmith/assets/tiny-sd"
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    text = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder")

    def expected(name: str) -> dict[str, tuple[int, ...]]:
        classes = TRANSFORMER + (RESIDUAL if name in CONVOLUTIONS else ())
        found = names_by_class(unet, classes, "lora_unet")
        if name not in UNET_ONLY:
            layers = names_by_class(text, TEXT, "lora_te")
            found |= {k.replace("lora_te_encoder", "lora_te_text_model_encoder"): v for k, v in layers.items()}
        if name in CONVOLUTIONS - {"gui_conv"}:  # LyCORIS' preset `full`
            ends = ("conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2")
            weights = unet.state_dict()
            found |= {f"lora_unet_{end}".replace(".", "_"): tuple(weights[f"{end}.weight"].shape) for end in ends}
        return found

    return expected


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images in every arrangement, and the configs beside them."""
    for place, source in (("img/2_garp", GARP), ("flat", GARP), ("reg/1_face", OTHERS)):
        (tmp_path / place).mkdir(parents=True)
        for path in sorted(source.glob("*.png"))[:4]:
            shutil.copy(path, tmp_path / place)
            shutil.copy(path.with_suffix(".txt"), tmp_path / place)
    shutil.copytree(GARP / "masks", tmp_path / "masks")
    rows = {path.name: {"caption": "a photo", "tags": "garp, face"} for path in (tmp_path / "flat").glob("*.png")}
    (tmp_path / "meta.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("garp --w 64 --h 64 --s 2 --n blurry --d 3\n", encoding="utf-8")
    for path in CONFIGS.iterdir():
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def modules_of(file: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """Module to the shapes of its tensors."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, tensor in load_file(file).items():
        module, _, word = key.partition(".")
        found.setdefault(module, {})[word] = tuple(tensor.shape)
    return found


@pytest.mark.slow_except("*colab*")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in NAMES], ids=NAMES
)
def test_trains_unchanged(name: str, folder: Path, here: Program, modules: Callable[[str], dict]) -> None:
    answer = here("as", "train_network", f"--config_file={name}.toml")
    assert answer.code == 0, answer.err
    file = folder / "out" / f"{name}.safetensors"
    found, expected = modules_of(file), modules(name)
    if name == "blocks":  # a weight of 0 leaves a block out
        assert expected.keys() - found.keys() == {m for m in expected if m.startswith("lora_unet_down_blocks_0_")}
        assert found.keys() < expected.keys()
    else:
        assert found.keys() == expected.keys()
    if name not in ("loha", "scripts_cn"):
        for module, tensors in found.items():
            out, *inner = expected[module]
            down = tensors["lora_down.weight"]
            assert down[1:] == tuple(inner)
            assert tensors["lora_up.weight"] == (out, down[0], *[1] * len(inner[1:]))
            assert tensors["alpha"] == ()
    moved = [t for k, t in load_file(file).items() if k.endswith(("lora_up.weight", "hada_w2_a", "lokr_w2", "scalar"))]
    assert any(t.abs().max() > 0 for t in moved)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("loha", "scripts_cn")])
def test_diffusers_has_the_weights_of_training(name: str, folder: Path, here: Program) -> None:
    """Every layer's change in diffusers is up @ down * alpha / rank of the file."""
    from diffusers import StableDiffusionPipeline

    assert here("as", "train_network", f"--config_file={name}.toml", "--save_precision=float").code == 0
    file = folder / "out" / f"{name}.safetensors"
    pipe = StableDiffusionPipeline.from_pretrained(ROOT / "src/lorasmith/assets/tiny-sd", safety_checker=None)
    pipe.load_lora_weights(str(file))
    tensors, layers = load_file(file), 0
    for path, module in pipe.unet.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        key = f"lora_unet_{path}".replace(".", "_")
        down, up = tensors[f"{key}.lora_down.weight"], tensors[f"{key}.lora_up.weight"]
        assert torch.equal(module.lora_A["default_0"].weight, down)
        assert torch.equal(module.lora_B["default_0"].weight, up)
        assert module.scaling["default_0"] == pytest.approx(float(tensors[f"{key}.alpha"]) / down.shape[0])
        layers += 1
    assert layers == sum(k.startswith("lora_unet_") and k.endswith(".alpha") for k in tensors)


def test_numbers_are_the_configs(folder: Path, here: Program) -> None:
    """Rank, alpha, dtype and the command line over the file."""
    answer = here("as", "train_network", "--config_file", "colab", "--network_dim=2", "--output_name", "other")
    assert answer.code == 0, answer.err
    tensors = load_file(folder / "out/other.safetensors")
    down = [t for k, t in tensors.items() if k.endswith("lora_down.weight")]
    assert {t.shape[0] for t in down} == {2}
    assert {t.dtype for k, t in tensors.items() if not k.endswith("alpha")} == {torch.float16}
    assert {float(t) for k, t in tensors.items() if k.endswith("alpha")} == {8.0}
    with safe_open(folder / "out/other.safetensors", "pt") as file:
        metadata = file.metadata()
    assert (metadata["ss_network_dim"], metadata["ss_steps"], metadata["ss_clip_skip"]) == ("2", "2", "2")
    assert metadata["ss_lr_scheduler"] == "cosine_with_restarts"


@pytest.mark.slow
def test_a_run_again_and_resumed(folder: Path, here: Program) -> None:
    """The same name again moves the first run aside; resume goes on."""
    command = ("as", "train_network", "--config_file=minimal.toml", "--network_train_unet_only")
    assert here(*command).code == 0
    first = (folder / "out/minimal.safetensors").read_bytes()
    again = here(*command, "--max_train_steps=3")
    assert again.code == 0, again.err
    assert (folder / "out/minimal.safetensors").read_bytes() != first
    resumed = here(*command, "--resume=out/minimal")
    assert resumed.code == 0, resumed.err
    refused = here(*command, "--resume=reg")
    assert refused.code == 1
    assert "not a run of lorasmith" in refused.err
