"""Metadata of LoRA files, as other programs read them."""

from __future__ import annotations

import pytest

from lorasmith.formats.metadata import Facts, describe


@pytest.mark.parametrize(
    ("family", "prediction", "version", "architecture", "kind"),
    [
        ("sd1", "epsilon", "sd_v1", "stable-diffusion-v1/lora", "epsilon"),
        ("sd1", "v_prediction", "sd_v1_v", "stable-diffusion-v1/lora", "v"),
        ("sd2", "epsilon", "sd_v2", "stable-diffusion-v2-512/lora", "epsilon"),
        ("sd2", "v_prediction", "sd_v2_v", "stable-diffusion-v2-768-v/lora", "v"),
        ("sdxl", "v_prediction", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "v"),
        # families and predictions of plug-ins
        ("sd1", "flow", "sd_v1", "stable-diffusion-v1/lora", "flow"),
        ("my_dit", "flow", "my_dit", "my_dit/lora", "flow"),
    ],
)
def test_the_kind_of_base_model(family: str, prediction: str, version: str, architecture: str, kind: str) -> None:
    found = describe(Facts(name="x", family=family, prediction=prediction, kind="lora"))
    assert found["ss_base_model_version"] == version
    assert found["modelspec.architecture"] == architecture
    assert found["modelspec.prediction_type"] == kind
