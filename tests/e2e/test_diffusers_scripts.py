"""The commands of diffusers' example pages, with other paths, train on the embedded base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from answers import ROOT, Program
from PIL import Image
from safetensors.torch import load_file

MODEL = ["--pretrained_model_name_or_path=tiny-sd", "--resolution=64", "--max_train_steps=2", "--train_batch_size=2"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures of garp."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "garp").mkdir()
    source = ROOT / "src/lorasmith/assets/garp"
    for image in sorted(p for p in source.iterdir() if p.suffix in (".png", ".webp"))[:3]:
        shutil.copy(image, tmp_path / "garp" / image.name)
    return tmp_path


def pipeline() -> Any:
    from diffusers import StableDiffusionPipeline

    from lorasmith.families.resolve import find

    return StableDiffusionPipeline.from_pretrained(
        find("tiny-sd").path, local_files_only=True, torch_dtype=torch.float32
    )


def loaded_weights(path: Path) -> dict[str, torch.Tensor]:
    """The attention weights of a stock pipeline with a file fused into it."""
    pipe = pipeline()
    pipe.load_lora_weights(path)
    pipe.fuse_lora()
    return {
        n.replace(".base_layer", ""): p.detach().clone()
        for n, p in pipe.unet.named_parameters()
        if "lora" not in n and "attn1.to_q" in n
    }


@pytest.mark.slow
def test_dreambooth_with_class_pictures_and_text_encoder(folder: Path, here: Program) -> None:
    arguments = [
        "--instance_data_dir=garp",
        "--instance_prompt",
        "a photo of sks robot",
        "--output_dir=out",
        "--rank=3",
    ]
    arguments += [
        "--with_prior_preservation",
        "--prior_loss_weight=0.5",
        "--class_data_dir=class",
        "--train_text_encoder",
    ]
    arguments += ["--class_prompt=a photo of a robot", "--num_class_images=4", "--learning_rate=1e-3"]
    arguments += [
        "--report_to=wandb",
        "--seed=1",
        "--validation_prompt=a photo of sks robot",
        "--num_validation_images=2",
    ]
    answer = here("as", "train_dreambooth_lora", *MODEL, *arguments)
    assert answer.code == 0, answer.err
    assert len(list((folder / "class").glob("*.png"))) == 4
    theirs = load_file(folder / "out" / "pytorch_lora_weights.safetensors")
    assert any(name.startswith("text_encoder.") for name in theirs)
    assert (folder / "out" / "out.safetensors").is_file()
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary["adapter"]["rank"] == summary["adapter"]["alpha"] == 3
    assert summary["data"]["repeats"] == 3 * 1 + 4

    stock, ours = (loaded_weights(folder / "out" / f) for f in ("pytorch_lora_weights.safetensors", "out.safetensors"))
    plain = {n: p for n, p in pipeline().unet.named_parameters() if n in stock}
    assert all(torch.allclose(stock[n], ours[n], atol=1e-6) for n in stock)
    assert any(not torch.equal(stock[n], plain[n]) for n in stock)

    again = here("as", "train_dreambooth_lora", *MODEL, *arguments, "--resume_from_checkpoint=latest")
    assert again.code == 0, again.err
    assert len(list((folder / "class").glob("*.png"))) == 4


@pytest.mark.slow_except("jsonl")
@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_text_to_image_from_an_imagefolder(form: str, folder: Path, here: Program) -> None:
    names = sorted(p.name for p in (folder / "garp").iterdir())
    if form == "jsonl":
        lines = [json.dumps({"file_name": n, "about": f"garp {i}"}) for i, n in enumerate(names)]
    elif form == "parquet":
        rows = {"file_name": names, "about": [f"garp {i}" for i in range(len(names))]}
        datasets.Dataset.from_dict(rows).to_parquet(folder / "garp" / "metadata.parquet")
        lines = []
    else:
        lines = ["file_name,about", *(f'{n},"garp, {i}"' for i, n in enumerate(names))]
    if lines:
        (folder / "garp" / f"metadata.{form}").write_text("\n".join(lines))
    arguments = [
        "--train_data_dir=garp",
        "--caption_column=about",
        "--random_flip",
        "--snr_gamma=5",
        "--output_dir=out",
    ]
    answer = here("as", "train_text_to_image_lora", *MODEL, *arguments, "--lr_scheduler=cosine", "--lr_warmup_steps=1")
    assert answer.code == 0, answer.err
    shown = here("convert-config", "--", "train_text_to_image_lora", *MODEL, *arguments)
    assert 'caption_column = "about"' in shown.out
    assert (folder / "out" / "pytorch_lora_weights.safetensors").is_file()


def shards(folder: Path) -> list[str]:
    """Two parquet files of pictures with captions; returns the captions."""
    paths = sorted((folder / "garp").iterdir())
    captions = [f"garp, number {i}" for i in range(len(paths))]
    whole = datasets.Dataset.from_dict({"picture": [str(p) for p in paths], "about": captions})
    whole = whole.cast_column("picture", datasets.Image())
    (folder / "data").mkdir()
    for i, part in enumerate((whole.select([0, 1]), whole.select([2]))):
        part = datasets.Dataset.from_list(list(part.with_format(None)), features=whole.features)
        part.to_parquet(folder / "data" / f"train-{i:05d}-of-00002.parquet")
    return captions


@pytest.mark.slow_except("*train_data_dir*")
@pytest.mark.parametrize("option", ["--train_data_dir=data", "--dataset_name=data"])
def test_text_to_image_from_parquet_shards(option: str, folder: Path, here: Program) -> None:
    """They are streamed into a folder of pictures, once."""
    captions = shards(folder)
    answer = here("as", "train_text_to_image_lora", *MODEL, option, "--image_column=image")
    assert answer.code == 1
    assert 'has no column "image"; it has picture, about' in answer.err
    arguments = [option, "--image_column=picture", "--caption_column=about", "--output_dir=out"]
    for _ in range(2):
        answer = here("as", "train_text_to_image_lora", *MODEL, *arguments)
        assert answer.code == 0, answer.err
    made = folder / "data" / "lorasmith-images"
    rows = [json.loads(line) for line in (made / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == captions
    for row, source in zip(rows, sorted((folder / "garp").iterdir()), strict=True):
        assert Image.open(made / row["file_name"]).tobytes() == Image.open(source).convert("RGB").tobytes()


@pytest.mark.slow
def test_pivotal_tuning(folder: Path, here: Program) -> None:
    arguments = ["--instance_data_dir=garp", "--instance_prompt=a photo of TOK robot", "--output_dir=out", "--rank=2"]
    arguments += [
        "--train_text_encoder_ti",
        "--train_text_encoder_ti_frac=0.5",
        "--text_encoder_lr=1e-3",
        "--repeats=2",
    ]
    answer = here("as", "train_dreambooth_lora_sd15_advanced", *MODEL, *arguments)
    assert answer.code == 0, answer.err
    assert {p.name for p in (folder / "out" / "embeddings").iterdir()} == {"s0.safetensors", "s1.safetensors"}
    exact = load_file(folder / "out" / "out.exact.safetensors")
    assert exact["lorasmith.word.1.te"].shape[:2] == (1, 1)

    # As the original's model card loads it.
    vectors = load_file(folder / "out" / "out_emb.safetensors")
    assert list(vectors) == ["clip_l"]
    pipe = pipeline()
    pipe.load_lora_weights(folder / "out" / "pytorch_lora_weights.safetensors")
    pipe.load_textual_inversion(
        vectors["clip_l"], token=["<s0>", "<s1>"], text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer
    )
    table = pipe.text_encoder.get_input_embeddings().weight
    for number in (0, 1):
        learned = table[pipe.tokenizer.convert_tokens_to_ids(f"<s{number}>")]
        assert torch.equal(learned, exact[f"lorasmith.word.{number}.te"][0, 0])
    assert "a photo of <s0><s1> robot" in (folder / "out" / "README.md").read_text()


def test_textual_inversion_loads_in_diffusers(folder: Path, here: Program) -> None:
    arguments = ["--train_data_dir=garp", "--placeholder_token=<garp>", "--initializer_token=robot", "--num_vectors=2"]
    answer = here("as", "textual_inversion", *MODEL, *arguments, "--output_dir=out", "--learnable_property=object")
    assert answer.code == 0, answer.err
    pipe = pipeline()
    pipe.load_textual_inversion(str(folder / "out" / "learned_embeds.safetensors"), token="<garp>")
    assert "<garp>_1" in pipe.tokenizer.get_vocab()


def test_custom_diffusion(folder: Path, here: Program) -> None:
    listed = [{"instance_data_dir": "garp", "instance_prompt": "a <new1> robot"}]
    (folder / "list.json").write_text(json.dumps(listed))
    arguments = ["--concepts_list=list.json", "--modifier_token=<new1>", "--initializer_token=red", "--output_dir=out"]
    answer = here("as", "train_custom_diffusion", *MODEL, *arguments)
    assert answer.code == 0, answer.err
    tensors = load_file(folder / "out" / "out.safetensors")
    assert {n.rsplit("_", 1)[1].partition(".")[0] for n in tensors} == {"k", "v"}
    assert len(tensors) == 32


def test_everything_that_is_missing_is_named(folder: Path, here: Program) -> None:
    answer = here("as", "train_dreambooth_lora", "--instance_data_dir=garp", "--revision=fp16", "--instance_promt=a")
    assert answer.code == 1
    assert "revision" in answer.err
    assert 'did you mean "instance_prompt"' in answer.err
    answer = here("as", "train_dreambooth_lora", "--instance_data_dir=garp")
    assert "--instance_prompt" in answer.err
    assert "--pretrained_model_name_or_path" in answer.err
