"""The hashes by which a file knows its base."""

from __future__ import annotations

from lorasmith.training.output.provenance import weights_hash

FIRST, SECOND, OTHER = "a" * 64, "b" * 64, "c" * 64


def test_every_text_encoder_and_merged_file_counts_and_the_precision_does_not() -> None:
    here = weights_hash(f"{FIRST}-{SECOND}-float32")
    assert here == weights_hash(f"{FIRST}-{SECOND}-bfloat16")
    assert here != weights_hash(f"{FIRST}-{OTHER}-float32")
    assert here != weights_hash(f"{FIRST}-{SECOND}-float32-te1+{OTHER}:0.5")
    assert len(here) == 16
