"""Layer-wise words as ordinary embeddings and an ordinary LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from answers import Program, assert_clear
from safetensors.torch import load_file


def mix_of_show(path: Path) -> Path:
    """A file of Mix-of-Show's, with words whose layers differ."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    table: dict[str, Any] = {
        "new_concept_embedding": {"<c1>": draw(16, 128) * 0.05, "<c2>": draw(16, 128) * 0.05},
        "text_encoder": {},
        "unet": {f"{layer}.lora_down.weight": draw(4, 128) * 0.1, f"{layer}.lora_up.weight": draw(128, 4) * 0.1},
    }
    torch.save({"params": table}, path)
    return path


@pytest.mark.slow
def test_a_file_of_mix_of_show_for_every_program(tmp_path: Path, here: Program) -> None:
    source = mix_of_show(tmp_path / "c.pth")
    answer = here("refit", source, "--base", "tiny-sd", "--rank", "6", "--prompt", "a toy of {}", "--json")
    assert answer.code == 0, answer.err
    said = answer.json
    assert said["names"] == ["<c1> <c2>"]
    assert said["ranks"] == {"6": 32}
    assert Path(said["file"]) == tmp_path / "c-refit.safetensors"
    assert len(said["errors"]["collapse"]) == len(said["errors"]["refit"]) == 32
    assert "mean of all 16" in answer.err
    assert "without the tokens" in answer.err
    word = load_file(tmp_path / "embeddings" / "c1.safetensors")["emb_params"]
    table = torch.load(source, weights_only=True)["params"]["new_concept_embedding"]
    torch.testing.assert_close(word, table["<c1>"].mean(0, keepdim=True))
    exact = load_file(tmp_path / "c-refit.exact.safetensors")
    assert [t.shape[1] for name, t in exact.items() if name.startswith("lorasmith.word")] == [1, 1]
    assert_clear(here("refit", source, "--base", "tiny-sd"), "exists already")
    assert_clear(
        here("refit", tmp_path / "c-refit.safetensors", "--base", "tiny-sd", "-o", tmp_path / "d.safetensors"),
        "nothing to refit",
    )
