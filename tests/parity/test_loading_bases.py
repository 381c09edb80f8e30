"""Loading: a folder and the original-layout file of the same weights give the same model, and the peers' numbers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.families.load import identify, load

KINDS = ("sd1", "sd2", "sdxl")
Bases = Callable[[str], Path]


def pipeline(folder: Path, kind: str) -> Any:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    if kind == "sdxl":
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        return StableDiffusionXLPipeline(
            AutoencoderKL.from_pretrained(folder / "vae"),
            CLIPTextModel.from_pretrained(folder / "text_encoder"),
            CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2"),
            CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
            UNet2DConditionModel.from_pretrained(folder / "unet"),
            DDIMScheduler(),
        )
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    return StableDiffusionPipeline(
        AutoencoderKL.from_pretrained(folder / "vae"),
        CLIPTextModel.from_pretrained(folder / "text_encoder"),
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        UNet2DConditionModel.from_pretrained(folder / "unet"),
        DDIMScheduler(),
        None,
        None,
        None,
        requires_safety_checker=False,
    )


@pytest.mark.slow_except("sd1", "sdxl")
@pytest.mark.parametrize("kind", KINDS)
def test_the_single_file_gives_what_the_folder_gives(kind: str, tiny_bases: Bases) -> None:
    folder = tiny_bases(kind)
    a, b = load(folder), load(f"{folder}.safetensors")
    assert a.kind == b.kind == kind
    assert a.prediction.name == b.prediction.name == ("v_prediction" if kind == "sd2" else "epsilon")
    assert torch.equal(a.path.alphas_cumprod, b.path.alphas_cumprod)
    parts = [(a.unet, b.unet), (a.vae, b.vae), *((a.text_encoders[t], b.text_encoders[t]) for t in a.text_components)]
    for ours, theirs in parts:
        expected, found = ours.state_dict(), theirs.state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    one, other = (f.encode_text(["a red fox, 3 apples", ""]) for f in (a, b))
    assert torch.equal(one["context"], other["context"])


@pytest.mark.slow_except("sd1", "sdxl")
@pytest.mark.parametrize("kind", KINDS)
def test_parts_equal_diffusers(kind: str, tiny_bases: Bases) -> None:
    folder = tiny_bases(kind)
    family, peer = load(folder), pipeline(folder, kind)
    captions = ["a photo of a broccoli", ""]
    conditioning = family.encode_text(captions)
    if kind == "sdxl":
        context, _, pooled, _ = peer.encode_prompt(captions, do_classifier_free_guidance=False)
        assert conditioning["pooled"] is not None
        torch.testing.assert_close(conditioning["pooled"], pooled, rtol=0, atol=1e-5)
    else:
        context, _ = peer.encode_prompt(captions, "cpu", 1, False)
        object.__setattr__(peer.text_encoder, "text_model", peer.text_encoder)  # diffusers wants the classic name here
        skipped, _ = peer.encode_prompt(captions, "cpu", 1, False, clip_skip=1)
        found = family.encode_text(captions, clip_skip=2)["context"]
        torch.testing.assert_close(found, skipped, rtol=0, atol=1e-5)
    torch.testing.assert_close(conditioning["context"], context, rtol=0, atol=1e-5)
    pixels = torch.rand(2, 3, 32, 24) * 2 - 1
    with torch.no_grad():
        expected = peer.vae.encode(pixels).latent_dist
        moments = family.encode_image(pixels)
        torch.testing.assert_close(moments.mean, expected.mean, rtol=0, atol=1e-5)
        torch.testing.assert_close(moments.std, expected.std, rtol=0, atol=1e-5)
        noise = torch.randn_like(expected.mean)
        x0 = family.latents(moments, noise)
        torch.testing.assert_close(x0, (expected.mean + expected.std * noise) * peer.vae.config.scaling_factor)
        torch.testing.assert_close(
            family.decode(x0), peer.vae.decode(x0 / peer.vae.config.scaling_factor).sample, rtol=0, atol=1e-5
        )


def test_a_text_encoder_loads_with_and_without_its_prefix(tiny_bases: Bases, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_bases("sd1"), folder)
    expected = load(folder).encode_text(["a fox"])["context"]
    weights = folder / "text_encoder" / "model.safetensors"
    plain = {name.removeprefix("text_model."): value for name, value in load_file(weights).items()}
    for prefix in ("", "text_model."):
        tensors = {prefix + name: value for name, value in plain.items()}
        tensors[f"{prefix}embeddings.position_ids"] = torch.arange(77)[None]
        save_file(tensors, weights)
        assert torch.equal(load(folder).encode_text(["a fox"])["context"], expected)


def test_a_missing_or_unknown_text_weight_is_an_error_that_names_it(tiny_bases: Bases, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_bases("sd1"), folder)
    weights = folder / "text_encoder" / "model.safetensors"
    whole = load_file(weights)
    name = next(n for n in whole if n.endswith("layers.1.mlp.fc1.weight"))
    save_file({n: v for n, v in whole.items() if n != name}, weights)
    with pytest.raises(LorasmithError, match=r"text encoder.*missing \(.*layers\.1\.mlp\.fc1\.weight"):
        _ = load(folder).text_encoders
    save_file(whole | {"encoder.layers.9.mlp.fc1.weight": torch.zeros(2)}, weights)
    with pytest.raises(LorasmithError, match=r"unknown \(.*layers\.9"):
        _ = load(folder).text_encoders
    save_file(whole | {name: whole[name][:5].clone()}, weights)
    with pytest.raises(LorasmithError, match=r"fc1\.weight is \[5, 32\], expected \[64, 32\]"):
        _ = load(folder).text_encoders


@pytest.mark.slow_except("sd1")
@pytest.mark.parametrize("kind", KINDS)
def test_a_single_file_without_a_weight_is_an_error_that_names_it(kind: str, tiny_bases: Bases, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    base = Path(f"{tiny_bases(kind)}.safetensors")
    tensors, metadata = load_file(base), _metadata(base)
    for key, part in {
        "model.diffusion_model.out.2.bias": "conv_out.bias",
        "first_stage_model.quant_conv.bias": "quant_conv.bias",
    }.items():
        save_file({n: v for n, v in tensors.items() if n != key}, path, metadata)
        with pytest.raises(LorasmithError, match=f"missing .{part}"):
            _ = load(path).vae
    save_file({n: v for n, v in tensors.items() if not n.startswith("first_stage")}, path, metadata)
    with pytest.raises(LorasmithError, match="it has no VAE"):
        _ = load(path).vae
    texts = ("cond_stage_model.", "conditioner.")
    key = next(n for n in tensors if n.startswith(texts) and n.endswith(("in_proj_bias", "q_proj.bias")))
    save_file({n: v for n, v in tensors.items() if n != key}, path, metadata)
    with pytest.raises(LorasmithError, match=r"text encoder.*q_proj\.bias"):
        _ = load(path).text_encoders


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()


def test_published_shapes_are_identified_from_the_header(tmp_path: Path) -> None:
    key = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    for width, kind in {768: "sd1", 1024: "sd2", 2048: "sdxl"}.items():
        path = tmp_path / f"{kind}.safetensors"
        save_file({key: torch.zeros(4, width)}, path)
        info = identify(path)
        assert (info.kind, info.layout, info.context) == (kind, "single-file", width)
    save_file({key: torch.zeros(4, 2048), "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, path)
    assert identify(path).prediction == "v_prediction"
    save_file({key: torch.zeros(4, 1024)}, path, {"modelspec.prediction_type": "epsilon"})
    assert identify(path).prediction == "epsilon"
    save_file({key: torch.zeros(4, 1280)}, path)
    with pytest.raises(LorasmithError, match="refiner"):
        identify(path)
    save_file({"lora_unet_conv_in.lora_down.weight": torch.zeros(2)}, path)
    with pytest.raises(LorasmithError, match="is a LoRA, not a base model"):
        identify(path)


def test_variants_and_shards(tiny_bases: Bases, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_bases("sd1"), folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    expected = load(folder).unet.state_dict()
    names = sorted(tensors)
    halves = (names[::2], names[1::2])
    weight_map = {}
    for i, half in enumerate(halves):
        shard = f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors"
        save_file({n: tensors[n] for n in half}, weights.with_name(shard))
        weight_map |= dict.fromkeys(half, shard)
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    save_file({n: v.half() for n, v in tensors.items()}, weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    halved = {n: v.half().float() for n, v in tensors.items()}
    index = weights.with_name("diffusion_pytorch_model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": weight_map}))
    found = load(folder).unet.state_dict()
    assert all(torch.equal(found[n], expected[n]) for n in expected)
    index.unlink()
    for shard in set(weight_map.values()):
        weights.with_name(shard).unlink()
    found = load(folder).unet.state_dict()
    assert all(torch.equal(found[n], halved[n]) for n in expected)


def test_the_attention_names_of_old_vaes(tiny_bases: Bases, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_bases("sd1"), folder)
    pixels = torch.rand(1, 3, 16, 16)
    expected = load(folder).encode_image(pixels).mean
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors: dict[str, Tensor] = {}
    for name, value in load_file(weights).items():
        for new, word in old.items():
            name = name.replace(new, word)
        tensors[name] = value
    assert any("proj_attn" in n for n in tensors)
    save_file(tensors, weights)
    assert torch.equal(load(folder).encode_image(pixels).mean, expected)


def test_weights_go_to_the_dtype_asked_for(tiny_bases: Bases) -> None:
    folder = tiny_bases("sd1")
    plain = load(folder)
    family = load(folder, dtype=torch.bfloat16)
    assert plain.dtype == torch.float32
    assert family.unet.dtype == torch.bfloat16
    expected = plain.unet.state_dict()
    assert all(torch.equal(v, expected[n].bfloat16()) for n, v in family.unet.state_dict().items())
    output = family.predict(torch.randn(1, 4, 8, 8), torch.tensor([5]), family.encode_text(["x"]))
    assert output.dtype == torch.float32


PEAK = """
import sys, torch
from pathlib import Path
from lorasmith.families.load import load
torch.set_num_threads(1)
import lorasmith.families.stable_diffusion.unet
def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
family = load(sys.argv[1], dtype=torch.bfloat16)
weights = sum(p.nbytes for p in family.unet.parameters())
print((status("VmHWM") - before) / weights, weights)
assert "diffusers" not in sys.modules and "transformers" not in sys.modules
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("layout", ["folder", "single"])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_peak_memory_of_loading_is_the_weights_as_loaded(tmp_path: Path, stored: torch.dtype, layout: str) -> None:
    from tools import make_random_sd

    make_random_sd.write(tmp_path / "b", "sd1", tiny=False, layouts=[layout], dtype=stored, seed=0)
    path = f"{tmp_path / 'b'}.safetensors" if layout == "single" else str(tmp_path / "b")
    run = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
    ratio, weights = map(float, run.stdout.split())
    assert weights > 1.7e9
    assert ratio < 1.06
    shutil.rmtree(tmp_path)


@pytest.mark.slow
def test_a_loaded_unet_imports_neither_diffusers_nor_transformers(tiny_bases: Bases) -> None:
    code = (
        "import sys; from lorasmith.families.load import load, identify; f = load(sys.argv[1]); "
        "f.fingerprint('vae'); f.fingerprint('text'); f.named_layers(['unet']); f.kohya_name('unet.conv_in'); "
        "f.from_kohya('lora_unet_conv_in'); "
        "print([m for m in ('diffusers', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tiny_bases("sd1"))], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_a_single_file_without_text_model_in_its_names(tiny_bases: Bases, tmp_path: Path) -> None:
    base = Path(f"{tiny_bases('sd1')}.safetensors")
    expected = load(base).encode_text(["a fox"])["context"]
    path = tmp_path / "plain.safetensors"
    save_file({n.replace(".text_model.", "."): v for n, v in load_file(base).items()}, path, _metadata(base))
    assert torch.equal(load(path).encode_text(["a fox"])["context"], expected)


@pytest.mark.slow_except("sd1")
@pytest.mark.parametrize("kind", KINDS)
def test_long_and_weighted_texts(kind: str, tiny_bases: Bases) -> None:
    family = load(tiny_bases(kind))
    words = " ".join(["broccoli"] * 60)
    ids = family.tokenize([words, "a"], 225)
    assert ids.shape == (2, 3, 77)
    long = family.encode_ids(ids)
    assert long["context"].shape == (2, 231, family.unet.config.context)
    window = family.encode_ids(ids[:, :1])
    torch.testing.assert_close(long["context"][:, :77], window["context"], rtol=0, atol=1e-6)
    if kind == "sdxl":
        assert long["pooled"] is not None
        assert window["pooled"] is not None
        torch.testing.assert_close(long["pooled"], window["pooled"], rtol=0, atol=1e-6)
    weights = torch.ones(ids.shape)
    same = family.encode_ids(ids, weights=weights)["context"]
    torch.testing.assert_close(same, long["context"], rtol=1e-5, atol=1e-6)
    weights[0, 1, 3] = 1.5
    changed = (family.encode_ids(ids, weights=weights)["context"] - long["context"]).abs().amax(-1) > 1e-5
    assert changed[0, 77:154].any()
    assert not changed[1].any()
    assert not changed[0, :77].any()


def test_layers_are_where_their_names_say(tiny_bases: Bases) -> None:
    family = load(tiny_bases("sdxl"))
    places = family.named_layers(["unet", "te1", "te2"])
    assert "te1.text_model.encoder.layers.0.self_attn.q_proj" in places
    assert "te2.text_projection" in places
    for name, (owner, attribute) in places.items():
        layer = getattr(owner, attribute)
        assert isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
        component, _, path = name.partition(".")
        model = family.components()[component]
        plain = path.removeprefix("text_model.")
        assert layer in (dict(model.named_modules()).get(p) for p in (path, plain))
        assert family.from_kohya(family.kohya_name(name)) == name
    assert len(family.named_layers(["unet"], norms=True)) > len(family.named_layers(["unet"]))
    with pytest.raises(LorasmithError, match='no component "te"'):
        family.named_layers(["te"])


def test_released_parts_come_back_and_gradients_reach_text_adapters(tiny_bases: Bases) -> None:
    family = load(tiny_bases("sd1"))
    expected = family.encode_text(["a fox"])["context"]
    assert not expected.requires_grad
    family.release("text")
    owner, attribute = family.named_layers(["te"])["te.text_model.encoder.layers.0.mlp.fc1"]
    assert torch.equal(family.encode_text(["a fox"])["context"], expected)
    getattr(owner, attribute).weight.requires_grad_(True)
    family.encode_text(["a fox"])["context"].sum().backward()
    assert getattr(owner, attribute).weight.grad.abs().sum() > 0
    family.release("vae")
    with pytest.raises(LorasmithError, match="cannot be released"):
        family.release("unet")


def test_sizes_of_sdxl(tiny_bases: Bases) -> None:
    family = load(tiny_bases("sdxl"))
    conditioning = family.encode_text(["a", "b"])
    sized = family.add_sizes(conditioning, [[10, 20], [30, 40]], [[1, 2], [3, 4]], torch.tensor([[64, 96], [96, 64]]))
    assert sized["time_ids"] is not None
    assert sized["time_ids"].tolist() == [[10, 20, 1, 2, 64, 96], [30, 40, 3, 4, 96, 64]]
    assert family.predict(torch.randn(2, 4, 8, 8), torch.tensor([1, 2]), sized).shape == (2, 4, 8, 8)
    plain = load(tiny_bases("sd1"))
    conditioning = plain.encode_text(["a"])
    assert plain.add_sizes(conditioning, 1, 2, 3) is conditioning


def test_fingerprints_tell_parts_and_dtypes_apart(tiny_bases: Bases) -> None:
    folder = tiny_bases("sd1")
    family, low = load(folder), load(folder, dtype=torch.bfloat16)
    assert family.fingerprint("vae") == low.fingerprint("vae")  # on the CPU the VAE computes in float32 either way
    assert family.fingerprint("text") != low.fingerprint("text")
    assert len({family.fingerprint(p) for p in ("unet", "vae", "text")}) == 3
    with pytest.raises(LorasmithError, match="no part"):
        family.fingerprint("te")
