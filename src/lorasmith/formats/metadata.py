"""The metadata of a LoRA file, under the keys that other tools read.

`ss_*` are kohya's (A1111's and Forge's network browsers show them), `modelspec.*` is Stability's model metadata
standard, `sshs_*` are the hashes by which tools identify networks. `lorasmith.config` is Lorasmith's resolved config.
Which of these a file gets is decided in `privacy.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from safetensors.torch import save
from torch import Tensor

from lorasmith.formats import plugins

SGM_REPOSITORY = "https://github.com/Stability-AI/generative-models"
V_PREDICTION = "v_prediction"
BFL_REPOSITORY = "https://github.com/black-forest-labs/flux"
BASE_MODEL_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0", "flux": "flux1"}
"""kohya's `ss_base_model_version` by family; v-prediction of SD 1 and 2 adds `_v`. Other families have their name."""
ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-512",
    "sdxl": "stable-diffusion-xl-v1-base",
    "sd3": "stable-diffusion-3",
    "flux": "flux-1",
}
"""`modelspec.architecture` by family, without the variant and `/lora`. Other families have their name."""
IMPLEMENTATIONS = {"sdxl": SGM_REPOSITORY, "flux": BFL_REPOSITORY}
"""`modelspec.implementation` by family, as sd-scripts writes it; of the others, diffusers."""
KOHYA_MODULES = {"lora": "networks.lora", "dylora": "networks.dylora"}
"""kohya's modules by adapter kind; all other kinds are LyCORIS'."""
LORA_MODULES = {"flux": "networks.lora_flux", "sd3": "networks.lora_sd3"}
"""kohya's modules of plain LoRA by family, where they are not that of Stable Diffusion."""


@dataclass(frozen=True)
class Facts:
    """What is known about a trained LoRA."""

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
    """By folder name, how often each tag of its captions occurs."""
    config: str = ""
    """Lorasmith's config, TOML."""
    comment: str = ""
    spec: Mapping[str, str] = field(default_factory=dict)
    """Further fields of the model spec, by their names without the prefix."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further `ss_*` values, by their names without the prefix."""
    plugins: Sequence[str] = ()
    """Modules that add the kinds of the run."""
    variant: str = ""
    """Of the base, as sd-scripts calls it: `dev` and `schnell` of Flux; `medium`, `5-medium` and `5-large` of SD3."""


def describe(facts: Facts) -> dict[str, str]:
    """All metadata, as strings, without the hashes (they need the tensors).

    `privacy.filter_metadata` decides which of them are written."""
    metadata = {f"ss_{name}": str(value) for name, value in _kohya_fields(facts).items()}
    metadata |= {f"modelspec.{name}": value for name, value in _model_spec(facts).items()}
    if facts.config:
        metadata["lorasmith.config"] = facts.config
    metadata |= plugins.encode(facts.plugins)
    return metadata


def _kohya_fields(facts: Facts) -> dict[str, Any]:
    """kohya's fields, by their names without `ss_`."""
    network_args = {} if facts.kind in KOHYA_MODULES else {"algo": facts.kind}
    width, height = facts.resolution
    fields: dict[str, Any] = {
        "output_name": facts.name,
        "network_module": network_module(facts.kind, facts.family),
        "network_dim": facts.rank,
        "network_alpha": facts.alpha,
        "network_args": json.dumps(network_args),
        "base_model_version": base_model_version(facts.family, facts.prediction, facts.variant),
        "v2": facts.family == "sd2",
        "sd_model_name": facts.base_name,
        # the whole hash, and its first 8 digits
        "new_sd_model_hash": facts.base_hash or None,
        "sd_model_hash": facts.base_hash[:8] or None,
        "resolution": f"({width}, {height})",
        "tag_frequency": json.dumps(facts.tags),
        "training_comment": facts.comment or None,
    }
    # settings may replace any of these
    fields.update(facts.settings)
    return fields


def network_module(kind: str, family: str) -> str:
    """kohya's module of an adapter kind."""
    if kind == "lora" and family in LORA_MODULES:
        return LORA_MODULES[family]
    return KOHYA_MODULES.get(kind, "lycoris.kohya")


def base_model_version(family: str, prediction: str, variant: str = "") -> str:
    """kohya's name of the kind of base model. Of SD3, sd-scripts writes the variant alone."""
    if family == "sd3":
        return variant or family
    version = BASE_MODEL_VERSIONS.get(family, family)
    return f"{version}_v" if prediction == V_PREDICTION and family in ("sd1", "sd2") else version


def architecture(family: str, prediction: str, variant: str = "") -> str:
    """The architecture as the model metadata standard names it."""
    if family == "sd2" and prediction == V_PREDICTION:
        return "stable-diffusion-v2-768-v/lora"
    name = ARCHITECTURES.get(family, family)
    return f"{name}-{variant}/lora" if variant else f"{name}/lora"


def _model_spec(facts: Facts) -> dict[str, str]:
    """The fields of the model metadata standard, by their names without `modelspec.`."""
    width, height = facts.resolution
    spec = {
        "sai_model_spec": "1.0.1",
        "architecture": architecture(facts.family, facts.prediction, facts.variant),
        "implementation": IMPLEMENTATIONS.get(facts.family, "diffusers"),
        "title": facts.name,
        "resolution": f"{width}x{height}",
        "date": datetime.now().replace(microsecond=0).isoformat(),
        "prediction_type": "v" if facts.prediction == V_PREDICTION else facts.prediction,
    }
    if facts.trigger:
        spec["trigger_phrase"] = ", ".join(facts.trigger)
    spec.update(facts.spec)
    return spec


def hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The hashes by which A1111 identifies a network.

    `sshs_model_hash`: SHA-256 of the tensor bytes, independent of the metadata. `sshs_legacy_hash`: the first 8 digits
    of the SHA-256 of 64 KiB at 1 MiB of the file with `ss_*` metadata alone.
    """
    # both hashes are of a file with kohya's metadata alone, so other metadata do not change them
    kohya_metadata = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    file_bytes = save(dict(tensors), kohya_metadata)
    tensors_start = 8 + int.from_bytes(file_bytes[:8], "little")
    return {
        "sshs_model_hash": hashlib.sha256(file_bytes[tensors_start:]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(file_bytes[0x100000:0x110000]).hexdigest()[:8],
    }


def tag_counts(captions: Iterable[str]) -> dict[str, int]:
    """How often each tag occurs in captions, which are split at commas; lower case."""
    counts: Counter[str] = Counter()
    for caption in captions:
        tags = (tag.strip().lower() for tag in caption.split(","))
        counts.update(tag for tag in tags if tag)
    return dict(counts)
