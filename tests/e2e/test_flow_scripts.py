"""Scripts and files of other trainers for SD3 and Flux train on small random bases, as their users run them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from answers import Program
from safetensors.torch import load_file, save_file

from lorasmith.families.load import load
from lorasmith.sampling.loras import load_lora
from tests.transformer_bases import WRITERS, original_names, original_vae_tensors, text_tensors


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name)) for name, write in WRITERS.items()}


@pytest.fixture
def photos(pictures: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`photos/2_garp` with two pictures and captions, in the current folder."""
    monkeypatch.chdir(tmp_path)
    pictures(2, (128, 128), "photos/2_garp")
    return tmp_path / "photos"


def check_file(base: Path, file: Path) -> None:
    """Every tensor of the file belongs to a layer of the base, and changes are not zero."""
    tensors = load_file(file)
    assert len(load_lora(load(base), file).adapters) > 20
    ups = [value for key, value in tensors.items() if "lora_up" in key or "lora_B" in key]
    assert ups
    assert any(float(value.abs().max()) > 0 for value in ups)


@pytest.mark.slow
@pytest.mark.parametrize("model", WRITERS)
def test_sd_scripts(model: str, bases: dict[str, Path], photos: Path, here: Program) -> None:
    Path("my.toml").write_text(
        f'pretrained_model_name_or_path = "{bases[model]}"\ntrain_data_dir = "photos"\nresolution = "128"\n'
        f'network_module = "networks.lora_{model}"\nnetwork_dim = 4\nnetwork_alpha = 1\noutput_dir = "out"\n'
        'output_name = "garp"\nmax_train_steps = 3\nlearning_rate = 1e-3\nsave_every_n_steps = 2\nseed = 1\n'
        'caption_extension = ".txt"\ncache_text_encoder_outputs = true\nnetwork_train_unet_only = true\n'
        'network_args = ["split_qkv=True"]\nmixed_precision = "no"\nweighting_scheme = "logit_normal"\n'
    )
    own = ["--model_prediction_type=raw", "--timestep_sampling=flux_shift"] if model == "flux" else []
    answer = here("as", f"{model}_train_network", "--config_file=my.toml", *own)
    assert answer.code == 0, answer.err
    check_file(bases[model], Path("out/garp.safetensors"))
    assert Path("out/garp-step00000002.safetensors").is_file()


@pytest.mark.slow
def test_sd_scripts_with_each_part_of_flux_in_a_file(bases: dict[str, Path], photos: Path, here: Program) -> None:
    flux = bases["flux"]
    save_file(original_names(flux, "flux"), "flux.safetensors")
    save_file(text_tensors(flux, "text_encoder"), "clip_l.safetensors")
    save_file(text_tensors(flux, "text_encoder_2"), "t5xxl.safetensors")
    save_file(original_vae_tensors(flux), "ae.safetensors")
    shutil.copytree(flux / "tokenizer_2", "t5_tokenizer")
    answer = here(
        "as",
        "flux_train_network",
        "--pretrained_model_name_or_path=flux.safetensors",
        "--clip_l=clip_l.safetensors",
        "--t5xxl=t5xxl.safetensors",
        "--ae=ae.safetensors",
        "--network_module=networks.lora_flux",
        "--model_prediction_type=raw",
        "--train_data_dir=photos",
        "--caption_extension=.txt",
        "--resolution=128",
        "--output_dir=out",
        "--output_name=garp",
        "--max_train_steps=2",
        "--network_train_unet_only",
        "--cache_text_encoder_outputs",
    )
    assert answer.code == 0, answer.err
    check_file(flux, Path("out/garp.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("model", WRITERS)
def test_diffusers_scripts(model: str, bases: dict[str, Path], photos: Path, here: Program) -> None:
    answer = here(
        "as",
        f"train_dreambooth_lora_{model}",
        f"--pretrained_model_name_or_path={bases[model]}",
        "--instance_data_dir=photos/2_garp",
        "--instance_prompt=a photo of garp",
        "--output_dir=out",
        "--resolution=128",
        "--max_train_steps=2",
        "--train_batch_size=1",
        "--learning_rate=1e-3",
        "--train_text_encoder",
        "--seed=0",
    )
    assert answer.code == 0, answer.err
    file = Path("out/pytorch_lora_weights.safetensors")
    keys = load_file(file).keys()
    assert any(key.startswith("transformer.transformer_blocks.0.attn.to_q.lora_A") for key in keys)
    assert any(key.startswith("text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A") for key in keys)
    check_file(bases[model], file)


@pytest.mark.slow
@pytest.mark.parametrize("model", [*WRITERS, "sd1"])
def test_ai_toolkit(model: str, bases: dict[str, Path], base: str, photos: Path, here: Program) -> None:
    flow = model in WRITERS
    Path("job.yaml").write_text(
        "job: extension\nconfig:\n  name: garp\n  process:\n    - type: sd_trainer\n      training_folder: out\n"
        "      trigger_word: garp\n      network: {type: lora, linear: 4, linear_alpha: 4}\n"
        "      save: {dtype: float32, save_every: 2}\n      datasets:\n"
        f"        - {{folder_path: photos, resolution: [64, 128], caption_dropout_rate: 0.1, bucket_tolerance: 16}}\n"
        "      train: {batch_size: 1, steps: 3, optimizer: adamw, lr: 1e-3, dtype: fp32, disable_sampling: true,\n"
        f"        noise_scheduler: {'flowmatch' if flow else 'ddpm'}, ema_config: {{use_ema: true, ema_decay: 0.9}}}}\n"
        f"      model: {{name_or_path: '{bases[model] if flow else base}', arch: {model}}}\n"
    )
    answer = here("as", "ai-toolkit", "job.yaml")
    assert answer.code == 0, answer.err
    assert Path("out/garp/garp_000000002.safetensors").is_file()
    file = Path("out/garp/garp.safetensors")
    keys = load_file(file).keys()
    assert any(key.startswith("transformer.transformer_blocks.0.attn.to_q.lora_A") for key in keys) == flow
    check_file(bases[model] if flow else Path(base), file)
