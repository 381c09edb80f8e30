"""sd-scripts' textual inversion: its options, its files, in stock programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from answers import Program
from safetensors.torch import load_file

from tests.garp import copy_photos


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures in kohya's folders."""
    copy_photos(tmp_path / "img/2_garp", 0, 3)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ti.toml").write_text(
        'pretrained_model_name_or_path = "tiny-sd"\ntrain_data_dir = "img"\nresolution = "64"\n[word]\n'
        'token_string = "<garp>"\ninit_word = "creature"\nnum_vectors_per_token = 2\nuse_object_template = true\n'
        'learning_rate = 5e-3\nmax_train_steps = 2\nseed = 1\noutput_dir = "out"\noutput_name = "garp"\n'
    )
    return tmp_path


def test_the_word_of_training_is_in_stock_diffusers(folder: Path, here: Program) -> None:
    from diffusers import StableDiffusionPipeline

    from lorasmith.families.resolve import find

    answer = here("as", "train_textual_inversion", "--config_file=ti.toml")
    assert answer.code == 0, answer.err
    exact = load_file(folder / "out/garp/garp.exact.safetensors")["lorasmith.word.0.te"]
    assert exact.shape == (2, 1, 128)
    found = torch.load(folder / "out/garp.pt", weights_only=True)
    assert list(found) == ["emb_params"]
    assert torch.equal(found["emb_params"], exact[:, 0])

    pipe = StableDiffusionPipeline.from_pretrained(
        find("tiny-sd").path, local_files_only=True, torch_dtype=torch.float32
    )
    own = (
        pipe.text_encoder.get_input_embeddings()
        .weight[pipe.tokenizer("creature", add_special_tokens=False).input_ids[0]]
        .clone()
    )
    pipe.load_textual_inversion(str(folder / "out/garp.pt"), token="<garp>")
    ids = pipe.tokenizer.convert_tokens_to_ids(["<garp>", "<garp>_1"])
    there = pipe.text_encoder.get_input_embeddings().weight[ids]
    assert torch.equal(there, exact[:, 0])
    assert 0 < (there[0] - own).abs().max() < 0.1


@pytest.mark.slow
def test_files_of_steps_and_epochs(folder: Path, here: Program) -> None:
    """Three pictures twice are six steps an epoch; a state goes on, and the word ends the same."""
    more = ["--max_train_steps=8", "--save_every_n_epochs=1", "--save_every_n_steps=2", "--save_last_n_steps=2"]
    more.append("--save_state")
    assert here("as", "train_textual_inversion", "--config_file=ti.toml", *more).code == 0
    made = {path.name for path in (folder / "out").glob("*.pt")}
    assert made == {"garp.pt", "garp-000001.pt", "garp-step00000006.pt", "garp-step00000008.pt"}
    whole = torch.load(folder / "out/garp.pt", weights_only=True)["emb_params"]
    then = torch.load(folder / "out/garp-000001.pt", weights_only=True)["emb_params"]
    assert not torch.equal(whole, then)
    more.append("--resume=out/garp-000001-state")
    (folder / "out/garp.pt").unlink()
    answer = here("as", "train_textual_inversion", "--config_file=ti.toml", *more)
    assert answer.code == 0, answer.err
    assert "token:  out/garp.pt" in answer.err
    assert torch.equal(torch.load(folder / "out/garp.pt", weights_only=True)["emb_params"], whole)


@pytest.mark.slow
def test_training_goes_on_from_a_file(folder: Path, here: Program) -> None:
    assert here("as", "train_textual_inversion", "--config_file=ti.toml", "--save_model_as=safetensors").code == 0
    first = load_file(folder / "out/garp.safetensors")["emb_params"]
    more = ["--weights=out/garp.safetensors", "--output_name=more", "--learning_rate=0", "--max_train_steps=1"]
    answer = here("as", "train_textual_inversion", "--config_file=ti.toml", *more)
    assert answer.code != 0
    assert "nothing would be trained" in answer.err
    more[2] = "--learning_rate=1e-12"
    assert here("as", "train_textual_inversion", "--config_file=ti.toml", *more).code == 0
    second = torch.load(folder / "out/more.pt", weights_only=True)["emb_params"]
    assert torch.allclose(first, second, atol=1e-9)
    more.append("--num_vectors_per_token=3")
    answer = here("as", "train_textual_inversion", "--config_file=ti.toml", *more)
    assert answer.code != 0
    assert "has 2 vectors, not 3" in answer.err


def test_a_vector_for_each_layer(folder: Path, here: Program) -> None:
    answer = here("as", "train_textual_inversion_XTI", "--config_file=ti.toml", "--save_precision=fp16")
    assert answer.code == 0, answer.err
    exact = load_file(folder / "out/garp/garp.exact.safetensors")["lorasmith.word.0.te"]
    assert exact.shape == (2, 16, 128)
    found = torch.load(folder / "out/garp.pt", weights_only=True)
    assert next(iter(found)) == "IN01"
    assert list(found)[6:8] == ["MID", "OUT03"]
    for i, tensor in enumerate(found.values()):
        assert torch.equal(tensor, exact[:, i].half())
    assert not torch.equal(found["IN01"], found["OUT11"])

    prompt = ["--prompt", "a photo of garp", "--size=64", "--steps=2", "--output", "drawn"]
    answer = here("sample", "--base", "tiny-sd", "--embedding", "out/garp.pt", *prompt)
    assert answer.code == 0, answer.err
