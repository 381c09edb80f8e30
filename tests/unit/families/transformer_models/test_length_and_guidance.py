"""The settings `text.t5_tokens` and `guidance` reach the model, and are refused where there is nothing to set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.families.load import load
from lorasmith.families.stable_diffusion.conditioning import CONTEXT
from lorasmith.training.config import load_config
from lorasmith.training.setup.build import load_base
from tests.transformer_bases import write_flux


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flux(tmp_path_factory.mktemp("flux"))


def test_length_and_guidance_of_a_run(flux: Path) -> None:
    table = {"base": str(flux), "output": "x", "data": {"images": "."}}
    plain = load_base(load_config(dict(table)), torch.device("cpu"), Progress())
    config = load_config(table | {"guidance": 3.5, "text": {"t5_tokens": 40}})
    family = load_base(config, torch.device("cpu"), Progress())
    assert family.fingerprint("text") != plain.fingerprint("text"), "the cache must not mix two lengths"
    conditioning = family.encode_text(["a cat"])
    assert conditioning[CONTEXT].shape[1] == 40
    x, t = torch.randn(1, 16, 4, 4), torch.tensor([0.5])
    with torch.no_grad():
        difference = family.predict(x, t, conditioning) - plain.predict(x, t, conditioning)
    assert float(difference.abs().max()) > 1e-4


def test_other_bases_refuse_both() -> None:
    family = load("tiny-sd")
    with pytest.raises(LorasmithError, match="do not take the guidance"):
        family.set_guidance(3.5)
    with pytest.raises(LorasmithError, match=r"text\.t5_tokens: this base has no T5"):
        family.set_t5_tokens(256)
