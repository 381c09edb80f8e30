"""What a LoRA file says about itself, in the words that other tools read.

`ss_*` are kohya's (A1111's and Forge's network browsers show them), `modelspec.*` is Stability's model metadata
standard, `sshs_*` are the hashes that tools identify networks by. `lorasmith.config` is our own resolved config.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from safetensors.torch import save
from torch import Tensor

SGM = "https://github.com/Stability-AI/generative-models"
VERSIONS = {
    ("sd1", "epsilon"): "sd_v1",
    ("sd1", "v_prediction"): "sd_v1_v",
    ("sd2", "epsilon"): "sd_v2",
    ("sd2", "v_prediction"): "sd_v2_v",
    ("sdxl", "epsilon"): "sdxl_base_v1-0",
    ("sdxl", "v_prediction"): "sdxl_base_v1-0",
}
ARCHITECTURES = {
    ("sd1", "epsilon"): "stable-diffusion-v1/lora",
    ("sd1", "v_prediction"): "stable-diffusion-v1/lora",
    ("sd2", "epsilon"): "stable-diffusion-v2-512/lora",
    ("sd2", "v_prediction"): "stable-diffusion-v2-768-v/lora",
    ("sdxl", "epsilon"): "stable-diffusion-xl-v1-base/lora",
    ("sdxl", "v_prediction"): "stable-diffusion-xl-v1-base/lora",
}

MODULES = {"lora": "networks.lora", "dylora": "networks.dylora"}
"""Kohya's modules of kinds; all others are LyCORIS'."""
MINIMAL = ("network_module", "network_dim", "network_alpha", "network_args", "base_model_version", "v2")
"""What kohya's scripts write with `no_metadata`, of `ss_*`."""


@dataclass(frozen=True)
class Facts:
    """What is known of a trained LoRA. `settings` are further `ss_*` values, by their names without the prefix."""

    name: str
    family: str
    prediction: str
    kind: str
    rank: int | None = None
    alpha: float | None = None
    base_name: str = ""
    base_hash: str = ""
    resolution: tuple[int, int] = (512, 512)
    trigger: tuple[str, ...] = ()
    tags: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Folder name to how often each tag of its captions occurs."""
    config: str = ""
    """Our own config, TOML."""
    comment: str = ""
    spec: Mapping[str, str] = field(default_factory=dict)
    """Further fields of the model spec, by their names without the prefix."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    minimal: bool = False
    """Say only what programs need to know the network, and the model spec; nothing of data and training."""


def describe(facts: Facts) -> dict[str, str]:
    """The metadata, all strings, hashes left out (they need the tensors)."""
    own = facts.kind in MODULES
    kohya: dict[str, Any] = {
        "output_name": facts.name,
        "network_module": MODULES.get(facts.kind, "lycoris.kohya"),
        "network_dim": facts.rank,
        "network_alpha": facts.alpha,
        "network_args": json.dumps({} if own else {"algo": facts.kind}),
        "base_model_version": VERSIONS[facts.family, facts.prediction],
        "v2": facts.family == "sd2",
        "sd_model_name": facts.base_name,
        "new_sd_model_hash": facts.base_hash or None,
        "sd_model_hash": facts.base_hash[:8] or None,
        "resolution": f"({facts.resolution[0]}, {facts.resolution[1]})",
        "tag_frequency": json.dumps(facts.tags),
        "training_comment": facts.comment or None,
        **facts.settings,
    }
    spec = {
        "sai_model_spec": "1.0.1",
        "architecture": ARCHITECTURES[facts.family, facts.prediction],
        "implementation": SGM if facts.family == "sdxl" else "diffusers",
        "title": facts.name,
        "resolution": f"{facts.resolution[0]}x{facts.resolution[1]}",
        "date": datetime.now().replace(microsecond=0).isoformat(),
        "prediction_type": "v" if facts.prediction == "v_prediction" else "epsilon",
    }
    if facts.trigger:
        spec["trigger_phrase"] = ", ".join(facts.trigger)
    spec |= facts.spec
    if facts.minimal:
        kohya = {name: kohya[name] for name in MINIMAL}
    result = {f"ss_{name}": str(value) for name, value in kohya.items()}
    result |= {f"modelspec.{name}": value for name, value in spec.items()}
    if facts.config and not facts.minimal:
        result["lorasmith.config"] = facts.config
    return result


def hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """`sshs_model_hash` (SHA-256 of the tensor bytes, the same whatever the metadata) and `sshs_legacy_hash` (first 8
    digits of that of 64 KiB at 1 MiB of the file with `ss_*` metadata alone), as A1111 computes them."""
    plain = save(dict(tensors), {k: v for k, v in metadata.items() if k.startswith("ss_")})
    start = 8 + int.from_bytes(plain[:8], "little")
    legacy = hashlib.sha256(plain[0x100000:0x110000]).hexdigest()[:8]
    return {"sshs_model_hash": hashlib.sha256(plain[start:]).hexdigest(), "sshs_legacy_hash": legacy}


def tag_counts(captions: list[str]) -> dict[str, int]:
    """How often each tag occurs, captions split at commas, lower case."""
    counts: dict[str, int] = {}
    for caption in captions:
        for tag in (t.strip().lower() for t in caption.split(",")):
            if tag:
                counts[tag] = counts.get(tag, 0) + 1
    return counts
