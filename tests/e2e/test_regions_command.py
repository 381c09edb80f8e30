"""Pictures by regions from the command line: our own file, and Mix-of-Show's script."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from answers import Program
from PIL import Image
from safetensors.torch import load_file, save_file

from lorasmith.formats.write import write

WORDS = ("<garp1>", "<garp2>")
TEXT = "text_model.embeddings.token_embedding.weight"


@pytest.fixture
def fused(tmp_path: Path) -> tuple[Path, Path]:
    """A whole fused model as Mix-of-Show leaves it, two words of 16 tokens each; and the words in our own form."""
    folder = tmp_path / "combined_model_base"
    shutil.copytree(str(resources.files("lorasmith") / "assets" / "tiny-sd"), folder)
    file = next((folder / "text_encoder").glob("*.safetensors"))
    tensors = load_file(file)
    name = next(n for n in tensors if n.endswith("token_embedding.weight"))
    own = tensors[name]
    new = torch.randn(32, own.shape[1], generator=torch.Generator().manual_seed(0)) * 0.02
    tensors[name] = torch.cat([own, new.to(own.dtype)])
    save_file(tensors, file)
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    (folder / "text_encoder" / "config.json").write_text(json.dumps(config | {"vocab_size": len(own) + 32}))
    ids = [list(range(len(own) + 16 * i, len(own) + 16 * i + 16)) for i in range(2)]
    listed = {w: {"concept_token_ids": i, "concept_token_names": []} for w, i in zip(WORDS, ids, strict=True)}
    (folder / "new_concept_cfg.json").write_text(json.dumps(listed))
    values = tensors[name][-32:].float().view(2, 1, 16, -1)
    exact = write(
        tmp_path / "words.exact.safetensors",
        {f"lorasmith.word.{i}.te": values[i] for i in range(2)},
        {"lorasmith.words": json.dumps(list(WORDS))},
        torch.float32,
    )
    return folder, exact


def pixels(file: str | Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image, dtype=np.int16)


@pytest.mark.slow
def test_a_fused_model_of_the_original_draws_as_our_files_do(
    fused: tuple[Path, Path], tmp_path: Path, here: Program
) -> None:
    folder, exact = fused
    rewrite = "[a photo of a <garp1> <garp2>]-*-[low]-*-[0, 0, 64, 64]|[a dog]-*-[]-*-[0, 64, 64, 128]"
    answer = here(
        "as", "regionally_controlable_sampling", f"--pretrained_model={folder}", "--prompt", "two things on grass",
        f"--prompt_rewrite={rewrite}", "--seed", "7", "--save_dir", tmp_path / "theirs", "--suffix", "x", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    theirs = json.loads(answer.out)["pictures"]
    scene = tmp_path / "scene.toml"
    scene.write_text(
        'prompt = "two things on grass"\nwidth = 128\nheight = 64\nsteps = 50\nscale = 7.5\n'
        'sample_sampler = "dpm++_2m"\n'
        'seed = 7\n[[regions]]\nprompt = "a photo of a <garp1> <garp2>"\nnegative = "low"\nbox = [0, 0, 64, 64]\n'
        '[[regions]]\nprompt = "a dog"\nnegative = ""\nbox = [0.5, 0, 1, 1]\n'
    )
    answer = here(
        "sample", "--base", "tiny-sd", "--embedding", exact, "--regions", scene, "-o", tmp_path / "ours", "--json"
    )
    assert answer.code == 0, answer.err
    ours = json.loads(answer.out)["files"]
    assert np.abs(pixels(theirs[0]) - pixels(ours[0])).max() <= 2
    assert pixels(theirs[0]).shape == (64, 128, 3)
    assert pixels(theirs[0]).std() > 5


def test_mistakes_are_told(tmp_path: Path, here: Program) -> None:
    text = tmp_path / "regions.txt"
    text.write_text("[a dog]-*-[]-*-[0, 0, 64, 640]")
    common = ("sample", "--base", "tiny-sd", "-o", tmp_path / "out")
    for words, message in (
        ((*common, "--regions", text), "add --prompt TEXT for the whole picture"),
        ((*common, "--prompt", "a", "--regions", text), "ends outside the picture of 128 x 128"),
        ((*common, "--prompt", "a", "--regions", tmp_path / "none.toml"), "no such file"),
        ((*common, "--prompt", "a", "--control", "x"), "MODEL=IMAGE"),
        ((*common, "--prompt", "a", "--control", f"x={text}.png"), "there is no such file"),
        (("as", "regionally_controlable_sampling", "--prompt", "a"), "--pretrained_model"),
        (("as", "regionally_controlable_sampling", "--prompt", "a", "--pretrained_model", "tiny-sd"), "size"),
    ):
        answer = here(*words)
        assert answer.code == 1, answer.err
        assert message in " ".join(answer.err.split()), answer.err
        assert "Traceback" not in answer.err
