"""Flux and SD3 in single files: equal to the diffusers folder, parts from elsewhere, fp8, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lorasmith.core.errors import LorasmithError
from lorasmith.families.base import Family
from lorasmith.families.load import identify, load, open_base
from tests.transformer_bases import (
    original_names,
    original_vae_tensors,
    text_tensors,
    whole_checkpoint,
    write_flux,
)

PARTS = {
    "flux": {"clip_l": "text_encoder", "t5xxl": "text_encoder_2"},
    "sd3": {"clip_l": "text_encoder", "clip_g": "text_encoder_2", "t5xxl": "text_encoder_3"},
}
TOKENIZER = {"flux": "tokenizer_2", "sd3": "tokenizer_3"}


@pytest.fixture
def tokenizer(transformer_folder: Path, transformer_kind: str, tmp_path: Path) -> Path:
    """T5's tokenizer where single files are looked for."""
    return Path(shutil.copytree(transformer_folder / TOKENIZER[transformer_kind], tmp_path / "t5_tokenizer"))


def outputs(family: Family) -> list[Tensor]:
    """A text, a prediction, a latent and a picture."""
    x, t = torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(0)), torch.tensor([0.4])
    with torch.no_grad():
        conditioning = family.encode_text(["a cat on a mat"])
        x0 = family.latents(family.encode_image(torch.zeros(1, 3, 32, 32)), None)
        return [*conditioning.tensors.values(), family.predict(x, t, conditioning), x0, family.decode(x0)]


def drop_projection(folder: Path, place: Path) -> Path:
    """The folder with a first text encoder whose projection changes nothing, as in the published SD3."""
    copy = Path(shutil.copytree(folder, place))
    tensors = text_tensors(copy, "text_encoder")
    if "text_projection.weight" in tensors:
        tensors["text_projection.weight"] = torch.eye(len(tensors["text_projection.weight"]))
        save_file(tensors, copy / "text_encoder" / "model.safetensors", {"format": "pt"})
    return copy


@pytest.mark.slow_except("flux*")
def test_a_whole_checkpoint_is_the_folder(
    transformer_folder: Path, transformer_kind: str, tokenizer: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    save_file(whole_checkpoint(transformer_folder, transformer_kind), file)
    info = identify(file)
    assert (info.kind, info.layout, info.prediction) == (transformer_kind, "single-file", "velocity")
    source, of_folder = open_base(file), open_base(transformer_folder)
    source.check_parts(every_name=True)
    assert source.parameters == of_folder.parameters
    assert [s for s in source.layers() if s.component == "transformer"] == [
        s for s in of_folder.layers() if s.component == "transformer"
    ]
    expected = outputs(load(drop_projection(transformer_folder, tmp_path / "folder")))
    for ours, other in zip(outputs(load(file)), expected, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-6, rtol=1e-6)


@pytest.mark.slow_except("flux*")
def test_parts_in_files_of_their_own(
    transformer_folder: Path, transformer_kind: str, tokenizer: Path, tmp_path: Path
) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "parts").mkdir()
    file = tmp_path / "unet" / "model.safetensors"
    save_file(original_names(transformer_folder, transformer_kind), file)
    with pytest.raises(LorasmithError, match=r'it has no VAE.*base_parts = \["ae.safetensors"\]'):
        open_base(file).check_parts(every_name=False)

    for name, part in PARTS[transformer_kind].items():
        save_file(text_tensors(transformer_folder, part), tmp_path / "parts" / f"{name}.safetensors")
    save_file(original_vae_tensors(transformer_folder), tmp_path / "parts" / "ae.safetensors")
    named = [str(tmp_path / "parts"), str(tokenizer)]
    one_by_one = [str(path) for path in sorted((tmp_path / "parts").iterdir())]
    expected = outputs(load(drop_projection(transformer_folder, tmp_path / "folder")))
    for parts in (named, [*one_by_one, str(tokenizer)]):
        open_base(file, parts=parts).check_parts(every_name=True)
        for ours, other in zip(outputs(load(file, parts=parts)), expected, strict=True):
            torch.testing.assert_close(ours, other, atol=1e-6, rtol=1e-6)


@pytest.mark.slow_except("flux*")
def test_parts_of_a_diffusers_folder(transformer_folder: Path, transformer_kind: str, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file(original_names(transformer_folder, transformer_kind), file)
    for ours, other in zip(
        outputs(load(file, parts=[str(transformer_folder)])), outputs(load(transformer_folder)), strict=True
    ):
        torch.testing.assert_close(ours, other, atol=1e-6, rtol=1e-6)


@pytest.mark.slow_except("sd3*")
def test_parts_beside_the_file_are_found_and_two_of_a_kind_are_refused(
    transformer_folder: Path, transformer_kind: str, tokenizer: Path, tmp_path: Path
) -> None:
    for place in ("diffusion_models", "text_encoders", "vae"):
        (tmp_path / place).mkdir()
    file = tmp_path / "diffusion_models" / "model.safetensors"
    save_file(original_names(transformer_folder, transformer_kind), file)
    for name, part in PARTS[transformer_kind].items():
        save_file(text_tensors(transformer_folder, part), tmp_path / "text_encoders" / f"{name}.safetensors")
    save_file(original_vae_tensors(transformer_folder), tmp_path / "vae" / "ae.safetensors")
    shutil.copytree(tokenizer, tmp_path / "text_encoders" / "t5_tokenizer")
    vae = (
        [] if transformer_kind == "flux" else [str(tmp_path / "vae")]
    )  # files do not tell the VAEs of the two from each other
    open_base(file, parts=vae).check_parts(every_name=True)

    other = tmp_path / "text_encoders" / "t5xxl_fp8.safetensors"
    shutil.copyfile(tmp_path / "text_encoders" / "t5xxl.safetensors", other)
    with pytest.raises(
        LorasmithError, match=r"several files have a T5 text encoder for it: .*Say which with base_parts"
    ):
        open_base(file, parts=vae).check_parts(every_name=True)
    open_base(file, parts=[*vae, str(other)]).check_parts(every_name=True)


def in_fp8(tensors: dict[str, Tensor], scaled: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Matrices in fp8, as ComfyUI stores them, and all tensors as they are read from it."""
    stored: dict[str, Tensor] = {}
    read: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if value.dim() != 2 or not name.endswith(".weight"):
            stored[name] = read[name] = value
            continue
        scale = value.abs().max() / 448 if scaled else torch.tensor(1.0)
        stored[name] = (value / scale).to(torch.float8_e4m3fn)
        read[name] = stored[name].float() * scale
        if scaled:
            stored[name.replace(".weight", ".scale_weight")] = scale
            stored[name.replace(".weight", ".scale_input")] = torch.tensor(1.0)
    return stored | ({"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)} if scaled else {}), read


@pytest.mark.parametrize("scaled", [False, True])
def test_fp8_is_read_in_the_precision_of_the_computation(
    transformer_folder: Path, transformer_kind: str, scaled: bool, tmp_path: Path
) -> None:
    eight_bit, full = tmp_path / "fp8.safetensors", tmp_path / "full.safetensors"
    stored, read = in_fp8(original_names(transformer_folder, transformer_kind), scaled)
    save_file(stored, eight_bit)
    save_file(read, full)
    of_fp8, of_full = load(eight_bit, parts=[str(transformer_folder)]), load(full, parts=[str(transformer_folder)])
    for (name, ours), other in zip(
        of_fp8.denoiser.state_dict().items(), of_full.denoiser.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, other), name
    assert of_fp8.fingerprint("transformer") != of_full.fingerprint("transformer")


def test_quantised_files_are_refused(transformer_folder: Path, transformer_kind: str, tmp_path: Path) -> None:
    tensors = original_names(transformer_folder, transformer_kind)
    name = next(name for name in tensors if name.endswith("qkv.weight"))
    save_file({**tensors, f"{name}.absmax": torch.ones(3)}, tmp_path / "nf4.safetensors")
    with pytest.raises(LorasmithError, match=r"its weights are quantised .*bf16, fp16 or fp8"):
        open_base(tmp_path / "nf4.safetensors")


def test_what_is_no_part_is_refused(transformer_folder: Path, transformer_kind: str, tmp_path: Path) -> None:
    file, lora = tmp_path / "model.safetensors", tmp_path / "lora.safetensors"
    save_file(original_names(transformer_folder, transformer_kind), file)
    save_file({"a.lora_down.weight": torch.ones(1)}, lora)
    with pytest.raises(LorasmithError, match=r"base_parts: .*lora.safetensors has no part that .*found: none"):
        open_base(file, parts=[str(lora)])
    with pytest.raises(LorasmithError, match=r"base_parts: .*t5x.safetensors: no such file"):
        open_base(file, parts=[str(tmp_path / "t5x.safetensors")])
    with pytest.raises(LorasmithError, match="is a diffusers folder, which has its text encoders"):
        open_base(transformer_folder, parts=[str(file)])
    with pytest.raises(LorasmithError, match="base_parts: tiny-sd is a model of sd1"):
        open_base("tiny-sd", parts=[str(file)])


def test_flux_with_other_inputs_is_named(tmp_path: Path) -> None:
    tensors = original_names(write_flux(tmp_path / "flux"), "flux")
    tensors["img_in.weight"] = torch.ones(64, 384)
    save_file(tensors, tmp_path / "fill.safetensors")
    with pytest.raises(LorasmithError, match=r"takes more than latents .*384 inputs"):
        open_base(tmp_path / "fill.safetensors")


def test_a_flux_without_t5_is_refused(tmp_path: Path) -> None:
    transformer_folder = write_flux(tmp_path / "flux")
    shutil.rmtree(transformer_folder / "text_encoder_2")
    with pytest.raises(LorasmithError, match="text_encoder_2: missing, so there is no T5 text encoder"):
        open_base(transformer_folder).check_parts(every_name=False)
