"""Pictures into a folder, with LoRA files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lorasmith.core.errors import ConfigError, LorasmithError
from lorasmith.core.registry import registered
from lorasmith.families.base import Family
from lorasmith.formats.base import Format
from lorasmith.sampling.loras import Loras, LoraUse, load_lora, short_hash
from lorasmith.sampling.request import Request
from lorasmith.sampling.run import SampleResult, sample_to_folder
from lorasmith.sampling.sample import sample
from lorasmith.sampling.settings import SampleSettings

FAST = SampleSettings(steps=2, width=64, height=64)
Write = Callable[..., Path]


def fast(**changes: object) -> SampleSettings:
    return FAST.model_copy(update=changes)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def far(a: Path, b: Path) -> float:
    return float(np.abs(pixels(a) - pixels(b)).mean())


@pytest.fixture
def sd1(bases: Callable[[str], Path]) -> Path:
    return bases("sd1")


def test_files_have_their_settings_inside_and_are_not_overwritten(sd1: Path, tmp_path: Path) -> None:
    prompts = ["a cat --n bad, ugly --l 4", "a dog: running"]
    first = sample_to_folder(sd1, prompts, tmp_path, settings=fast(count=2, sampler="Euler a"))
    assert [f.name for f in first.files] == ["00000-0.png", "00001-1.png", "00002-0.png", "00003-1.png"]
    text = Image.open(first.files[1]).info["parameters"]
    assert text == (
        "a cat\nNegative prompt: bad, ugly\nSteps: 2, Sampler: Euler a, CFG scale: 4, Seed: 1, Size: 64x64, Model: sd1"
    )
    again = sample_to_folder(sd1, prompts[:1], tmp_path, settings=FAST)
    assert [f.name for f in again.files] == ["00004-0.png"]
    assert all(f.is_file() for f in (*first.files, first.grid))


def test_strengths_scale_a_lora_and_zero_is_the_base(
    sd1: Path, family: Family, write_lora: Write, tmp_path: Path
) -> None:
    lora = write_lora(family)
    base = sample_to_folder(sd1, ["a cat"], tmp_path / "base", settings=FAST)
    result = sample_to_folder(
        sd1, ["a cat"], tmp_path / "lora", loras=[LoraUse(lora, 0.8)], settings=fast(strengths=(0.0, 0.5, 1.0))
    )
    zero, half, whole = result.files
    assert far(zero, base.files[0]) == 0
    assert 0 < far(half, zero) < far(whole, zero)
    assert "Lora" not in Image.open(zero).info["parameters"]
    text = Image.open(whole).info["parameters"]
    assert text.startswith("a cat <lora:garp:0.8>\n")
    assert text.endswith(f'Model: sd1, Lora hashes: "garp: {short_hash(lora)}"')


def test_short_hash_is_what_files_say_of_themselves(family: Family, write_lora: Write) -> None:
    from safetensors import safe_open

    lora = write_lora(family)
    with safe_open(lora, "pt") as file:
        assert file.metadata()["sshs_model_hash"].startswith(short_hash(lora))


@pytest.mark.slow
def test_a_tag_does_what_the_option_does(sd1: Path, family: Family, write_lora: Write, tmp_path: Path) -> None:
    lora = write_lora(family)
    write_lora(family, "other", seed=5)

    def drawn(name: str, prompt: str, *loras: LoraUse) -> Path:
        return sample_to_folder(sd1, [prompt], tmp_path / name, loras=loras, settings=FAST).files[0]

    option = drawn("a", "a cat", LoraUse(lora, 0.7))
    assert far(option, drawn("b", "a cat <lora:garp:0.7>", LoraUse(lora))) == 0
    both = drawn("c", "a cat", LoraUse(lora, 0.7), LoraUse(lora.with_stem("other")))
    assert far(both, option) > 0
    assert far(both, drawn("d", "<lora:other> a cat", LoraUse(lora, 0.7))) == 0
    text_only = drawn("e", "a cat <lora:garp:0.7:0>", LoraUse(lora))
    assert far(text_only, option) > 0
    assert Image.open(text_only).info["parameters"].startswith("a cat <lora:garp:0.7:0>\n")


def test_the_base_is_as_before(family: Family, write_lora: Write) -> None:
    request = Request("a cat", steps=2, width=64, height=64)
    before = sample(family, [request])[0].pixels
    modules = dict(family.unet.named_modules())
    loras = Loras(family)
    with loras.attached([LoraUse(write_lora(family)), LoraUse(write_lora(family, "b", seed=3), 0.5)]):
        assert not torch.equal(sample(family, [request])[0].pixels, before)
    assert dict(family.unet.named_modules()) == modules
    assert torch.equal(sample(family, [request])[0].pixels, before)


def test_a_lora_of_another_family_is_told(loaded: Callable[[str], Family], write_lora: Write) -> None:
    lora = write_lora(loaded("sd1"))
    with pytest.raises(LorasmithError, match=r"garp\.safetensors: .* made for sd_v1"):
        load_lora(loaded("sdxl"), lora)
    for part in ("unet", "te"):
        only = write_lora(loaded("sdxl"), f"xl{part}", parts=("unet",) if part == "unet" else ("te1", "te2"))
        with pytest.raises(LorasmithError, match=r"sd1 base|does not fit"):
            load_lora(loaded("sd1"), only)
    from lorasmith.adapters.layer import Adapted

    assert not any(isinstance(m, Adapted) for f in ("sd1", "sdxl") for m in loaded(f).unet.modules())


@pytest.mark.parametrize("form", registered(Format).values(), ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", ["lora", "loha", "full"])
def test_every_format_draws_the_same(family: Family, tmp_path: Path, form: type[Format], kind: str) -> None:
    from lorasmith.adapters.attach import AdapterSet
    from lorasmith.adapters.base import AdapterConfig
    from lorasmith.formats.write import write as write_file

    request = Request("a cat", steps=2, width=64, height=64)
    config = registered(AdapterConfig)[kind](layers=("*attn2.to_k", "*self_attn.v_proj"))
    adapters = AdapterSet.create(config, family.named_layers(("unet", "te")), family.layer_presets, seed=0)
    for parameter in adapters.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    try:
        encoded = form().encode_adapters(adapters.adapters, family)
    except LorasmithError:
        pytest.skip("this format refuses this kind")
    write_file(tmp_path / "x.safetensors", encoded.tensors, encoded.metadata, torch.float32)
    plain = sample(family, [request])[0].pixels
    adapters.eval()
    adapters.attach()
    expected = sample(family, [request])[0].pixels
    adapters.detach()
    with Loras(family).attached([LoraUse(tmp_path / "x.safetensors")]):
        found = sample(family, [request])[0].pixels
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    assert not torch.allclose(plain, expected, atol=2e-2)


def test_a_lora_of_another_size_is_told(family: Family, write_lora: Write) -> None:
    from safetensors.torch import load_file, save_file

    lora = write_lora(family)
    tensors = load_file(lora)
    name = next(n for n in tensors if n.endswith("lora_down.weight"))
    tensors[name] = torch.zeros(tensors[name].shape[0], 7)
    save_file(tensors, lora)
    with pytest.raises(LorasmithError, match=r"does not fit this base.*lora_down\.weight \(2, 7\)"):
        load_lora(family, lora)


def test_mistakes_are_told_before_anything_is_drawn(sd1: Path, tmp_path: Path) -> None:
    def draw(*prompts: str, **options: object) -> SampleResult:
        return sample_to_folder(sd1, prompts, tmp_path / "out", settings=FAST, **options)  # type: ignore[arg-type]

    (tmp_path / "garp.safetensors").write_bytes(b"")
    here = LoraUse(tmp_path / "garp.safetensors")
    for message, action in {
        "no such LoRA file": lambda: draw("a", loras=[LoraUse(tmp_path / "none.safetensors")]),
        "not a readable": lambda: draw("a", loras=[here]),
        'did you mean "garp"': lambda: draw("a <lora:grap:1>", loras=[here]),
        "give it with --lora": lambda: draw("a <lora:something:1>"),
        "there is no prompt": lambda: draw(),
        "no sampler is called": lambda: draw("a --ss magic"),
        "steps is 0": lambda: draw("a --s 0"),
        "strengths are factors of LoRA strengths": lambda: sample_to_folder(
            sd1, ["a"], tmp_path / "out", settings=fast(strengths=(0.0, 1.0))
        ),
        "is not a device": lambda: sample_to_folder(sd1, ["a"], tmp_path / "out", settings=fast(device="gpu")),
    }.items():
        with pytest.raises(LorasmithError, match=message):
            action()
    assert not list(tmp_path.glob("out/*.png"))


def test_settings_are_checked() -> None:
    from lorasmith.core.config import validate

    with pytest.raises(ConfigError, match="3 problems") as caught:
        validate(SampleSettings, {"sampler": "magic", "width": 12, "step": 3})
    assert 'did you mean "steps"' in str(caught.value)


@pytest.mark.slow
def test_v_prediction_and_zero_terminal_snr(sd1: Path, tmp_path: Path) -> None:
    files = [
        sample_to_folder(sd1, ["a"], tmp_path / str(i), settings=fast(**options)).files[0]
        for i, options in enumerate(
            ({}, {"prediction": "v_prediction"}, {"prediction": "v_prediction", "zero_terminal_snr": True})
        )
    ]
    assert far(files[0], files[1]) > 1
    assert far(files[1], files[2]) > 1


def test_a_pictures_native_size(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []
    monkeypatch.setattr("lorasmith.sampling.run.sample", lambda family, requests, **_: asked.extend(requests))
    with pytest.raises(KeyError):
        sample_to_folder(sd1, ["a", "b --w 72"], tmp_path)
    assert [(r.width, r.height) for r in asked] == [(512, 512), (72, 512)]


def test_the_command(sd1: Path, tmp_path: Path) -> None:
    import json

    from typer.testing import CliRunner

    from lorasmith.cli.main import app

    (tmp_path / "p.txt").write_text("a cat\na dog --d 9\n")
    common = ["sample", "--base", str(sd1), "--steps", "1", "-o", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(app, [*common, "--prompts", str(tmp_path / "p.txt"), "--size", "64x48", "--set", "cfg=1"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert [Path(f).name for f in answer["files"]] == ["00000-0.png", "00001-9.png"]
    assert Image.open(answer["files"][0]).size == (64, 48)
    assert Image.open(answer["grid"]).width > 128

    for options, message in {
        ("--prompt", "a", "--prompts", "p.txt"): "either --prompt",
        (): "either --prompt",
        ("--prompt", "a", "--size", "big"): "WIDTHxHEIGHT",
        ("--prompt", "a", "--strengths", "0;1"): "with commas",
        ("--prompt", "a", "--set", "cgf=1"): 'did you mean "cfg"',
    }.items():
        failed = CliRunner().invoke(app, [*common, *options])
        assert isinstance(failed.exception, LorasmithError)
        assert message in str(failed.exception)
