"""Each kind on Flux and SD3 gives training's weights in each reader that we say reads it, and not where we say so."""

from __future__ import annotations

import pytest
from transformer_matrix import CASES, TRANSFORMER_READERS, cells


@pytest.mark.slow_except("Flux-*")
@pytest.mark.parametrize(("family", "row", "form"), CASES)
def test_readers_of_transformers_do_what_we_say(family: str, row: str, form: str) -> None:
    found = cells(family, row, form)
    if isinstance(found, str):  # the format refuses the kind
        assert len(found) > 20
        return
    for name in TRANSFORMER_READERS:
        cell = found[name]
        assert cell.found == cell.said, (family, row, form, name, cell)
        assert cell.found == "yes" or cell.why, (family, row, form, name)


def test_the_default_format_of_a_flux_lora_loads_everywhere() -> None:
    found = cells("Flux", "LoRA", "kohya")
    assert not isinstance(found, str)
    assert {cell.found for cell in found.values()} == {"yes"}
