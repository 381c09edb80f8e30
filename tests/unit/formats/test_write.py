"""What is written: whole, finite, with hashes that other tools compute too."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lorasmith.core.errors import LorasmithError
from lorasmith.formats.metadata import Facts, describe, tag_counts
from lorasmith.formats.write import write

TENSORS = {"lora_unet_x.lora_up.weight": torch.randn(500, 600), "lora_unet_x.alpha": torch.tensor(22.627417)}


def test_hashes_are_those_of_the_file(tmp_path: Path) -> None:
    """`sshs_model_hash` is SHA-256 over everything after the header (A1111's way to know a network)."""
    path = write(tmp_path / "x.safetensors", TENSORS, {"ss_seed": "1", "lorasmith.config": "a = 1"}, torch.float32)
    data = path.read_bytes()
    after = 8 + int.from_bytes(data[:8], "little")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["sshs_model_hash"] == hashlib.sha256(data[after:]).hexdigest()
    assert metadata["ss_seed"] == "1"
    assert metadata["lorasmith.config"] == "a = 1"
    assert len(metadata["sshs_legacy_hash"]) == 8


def test_metadata_do_not_move_the_hash(tmp_path: Path) -> None:
    found = []
    for i in range(2):
        with safe_open(write(tmp_path / "x.safetensors", TENSORS, {"ss_seed": "7" * i}, torch.float16), "pt") as file:
            found.append(file.metadata()["sshs_model_hash"])
    assert found[0] == found[1]


def test_alphas_are_not_rounded(tmp_path: Path) -> None:
    with safe_open(write(tmp_path / "x.safetensors", TENSORS, {}, torch.bfloat16), "pt") as file:
        assert file.get_tensor("lora_unet_x.alpha") == TENSORS["lora_unet_x.alpha"]
        assert file.get_tensor("lora_unet_x.lora_up.weight").dtype == torch.bfloat16


@pytest.mark.parametrize(("value", "says"), [(float("nan"), "not finite"), (1e6, "does not fit")])
def test_what_is_not_finite_leaves_the_old_file(tmp_path: Path, value: float, says: str) -> None:
    path = write(tmp_path / "x.safetensors", TENSORS, {}, torch.float16)
    before = path.read_bytes()
    with pytest.raises(LorasmithError, match=says):
        write(path, {"lora_unet_x.lora_up.weight": torch.full((2, 2), value)}, {}, torch.float16)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("family", "version", "architecture"),
    [
        ("sd1", "sd_v1", "stable-diffusion-v1/lora"),
        ("sd2", "sd_v2", "stable-diffusion-v2-512/lora"),
        ("sdxl", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
    ],
)
def test_what_browsers_of_networks_look_at(family: str, version: str, architecture: str) -> None:
    facts = Facts("garp", family, "epsilon", "lora", 4, 4.0, trigger=("garp",), tags={"1_garp": {"garp": 3}})
    found = describe(facts)
    assert found["ss_base_model_version"] == version
    assert found["modelspec.architecture"] == architecture
    assert found["ss_v2"] == str(family == "sd2")
    assert found["modelspec.trigger_phrase"] == "garp"
    assert found["ss_tag_frequency"] == '{"1_garp": {"garp": 3}}'
    assert found["ss_network_module"] == "networks.lora"
    assert all(isinstance(v, str) for v in found.values())


@pytest.mark.parametrize(
    ("family", "variant", "version", "architecture"),
    [
        ("flux", "dev", "flux1", "flux-1-dev/lora"),
        ("flux", "schnell", "flux1", "flux-1-schnell/lora"),
        ("sd3", "5-medium", "5-medium", "stable-diffusion-3-5-medium/lora"),
    ],
)
def test_transformers_are_named_as_sd_scripts_names_them(
    family: str, variant: str, version: str, architecture: str
) -> None:
    found = describe(Facts("garp", family, "velocity", "lora", 4, 4.0, variant=variant))
    assert found["ss_base_model_version"] == version
    assert found["modelspec.architecture"] == architecture
    assert found["ss_network_module"] == {"flux": "networks.lora_flux", "sd3": "networks.lora_sd3"}[family]


def test_tags() -> None:
    assert tag_counts(["Garp, red", "garp,, blue "]) == {"garp": 2, "red": 1, "blue": 1}
