"""Each exported kind gives training's weights in each reader that we say reads it, and does not where we say so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matrix import CASES, NEW_WORDS, READER_NAMES, WORDY, cells, same_words
from readers import READERS, RefusedError

from lorasmith.formats.bundle import Bundle
from lorasmith.formats.consumers import reader_support
from lorasmith.formats.lora_file import LoraFile
from lorasmith.formats.survey import Survey


@pytest.mark.slow_except("*-kohya", "*-portable")
@pytest.mark.parametrize(("row", "form"), CASES)
def test_readers_do_what_we_say(row: str, form: str) -> None:
    found = cells(row, form)
    if isinstance(found, str):  # the format refuses the kind
        assert len(found) > 20
        return
    for name in READER_NAMES:
        cell = found[name]
        assert cell.found == cell.said, (row, form, name, cell)
        assert cell.found == "yes" or cell.why, (row, form, name)


def test_there_is_a_way_into_every_reader_for_every_kind() -> None:
    """`kohya` for user interfaces; `diff` where that is the only exact one; plain LoRA forms for diffusers."""
    for row in ("LoRA, LoCon", "LoHa", "LoKr", "LoRA, Tucker", "LoRA, alphas by layer", "LoRA of text encoders' MLPs"):
        portable = cells(row, "portable")
        assert not isinstance(portable, str), row
        assert {cell.found for cell in portable.values()} == {"yes"}, row


def test_a1111_has_the_words_and_the_others_the_lora_alone() -> None:
    found = cells(WORDY, "bundle")
    assert not isinstance(found, str)
    assert {name: cell.found for name, cell in found.items()} == {
        "A1111": "yes",
        "Forge": "partly",
        "ComfyUI": "partly",
        "InvokeAI": "partly",
        "diffusers": "no",
    }


def test_words_of_sdxl_and_of_onetrainer() -> None:
    """The latter writes `clip_l_out` too, at which A1111 fails for SD 1.x."""
    two = {"garp": {"te1": torch.ones(2, 768), "te2": torch.ones(2, 1280)}}
    found = READERS["A1111"].words(Bundle().encode_tokens(two))
    assert {part: t.shape for part, t in found["garp"].items()} == {"clip_l": (2, 768), "clip_g": (2, 1280)}
    one = Bundle().encode_tokens(NEW_WORDS)
    assert same_words(READERS["A1111"].words(one), NEW_WORDS)
    with pytest.raises(RefusedError):
        READERS["A1111"].words({"bundle_emb.g.clip_l": torch.ones(2), "bundle_emb.g.clip_l_out": torch.ones(2)})


def test_forge_refuses_more_than_twelve_words() -> None:
    many = {f"w{i}": {"te": torch.ones(1, 128)} for i in range(13)}
    survey = Survey(
        LoraFile(Path("f"), {}, {}, bundled_embeddings={w: {"string_to_param.*": p["te"]} for w, p in many.items()})
    )
    assert reader_support(survey)["Forge"]["loads"] == "no"
    with pytest.raises(RefusedError):
        READERS["Forge"].read(Bundle().encode_tokens(many), {})
    twelve = dict(list(many.items())[:12])
    assert READERS["Forge"].read(Bundle().encode_tokens(twelve), {}) == {}


@pytest.mark.slow
def test_the_page_is_current() -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "tools.compatibility", "--check"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
