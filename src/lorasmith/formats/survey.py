"""What can be seen in the tensors of a LoRA file alone: kinds, ranks, family, the size of the change of each layer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from lorasmith.adapters.base import kind_of
from lorasmith.formats.read import LoraFile
from lorasmith.formats.rewrite import LayerTensors

_COMPONENT = re.compile(r"lora_(unet|te\d?)_(.*)")
_CROSS = re.compile(r"attn2_to_[kv]$")
_TEXT_ATTENTION = re.compile(r"(.*self_attn_)(q|k|v|out)_proj$")
_SGM = re.compile(r"(input_blocks|middle_block|output_blocks|time_embed_\d|label_emb|out_\d)")
_BLOCKS = (
    (re.compile(r"(down|up|input|output)_blocks_(\d+)"), r"\1 \2"),
    (re.compile(r"mid(?:dle)?_block"), "mid"),
    (re.compile(r"encoder_layers_(\d+)"), r"layer \1"),
)
CONTEXTS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Family by the width of what cross-attention reads."""


@dataclass(frozen=True)
class Survey:
    """A file's layers, by their names in kohya's spelling."""

    file: LoraFile

    @cached_property
    def layers(self) -> dict[str, LayerTensors]:
        """Flat name to tensors; names that are no layer's are left out (`strangers`)."""
        found: dict[str, LayerTensors] = {}
        for key, tensor in self.file.tensors.items():
            flat, _, name = key.partition(".")
            if name and _COMPONENT.match(flat):
                found.setdefault(flat, {})[name] = tensor
        return found

    @cached_property
    def strangers(self) -> list[str]:
        """Names of tensors that belong to no layer."""
        return [key for key in self.file.tensors if key.partition(".")[0] not in self.layers]

    @cached_property
    def kind_by_layer(self) -> dict[str, str]:
        """The adapter kind of each layer; `unknown` if there is none that has its tensors."""
        return {flat: _kind(tensors) for flat, tensors in self.layers.items()}

    @cached_property
    def kinds(self) -> Counter[str]:
        return Counter(self.kind_by_layer.values())

    @cached_property
    def components(self) -> Counter[str]:
        """Layers per component: `unet`, `te`, `te1`, `te2`."""
        return Counter(component(flat) for flat in self.layers)

    @cached_property
    def family(self) -> str | None:
        """`sd1`, `sd2` or `sdxl`: by the widths of layers, else by the metadata."""
        for flat, tensors in self.layers.items():
            width = input_width(tensors)
            if _CROSS.search(flat) and width in CONTEXTS:
                return CONTEXTS[width]
        if "te2" in self.components:
            return "sdxl"
        widths = {input_width(w) for f, w in self.layers.items() if component(f) in ("te", "te1") and "attn" in f}
        from_text = {768: "sd1", 1024: "sd2"}
        if self.components.keys() <= {"te", "te1"} and (known := widths & from_text.keys()):
            return from_text[next(w for w in known if w is not None)]
        return self._said

    @property
    def _said(self) -> str | None:
        metadata = self.file.metadata
        said = f"{metadata.get('ss_base_model_version', '')} {metadata.get('modelspec.architecture', '')}".lower()
        marks = {"sdxl": "sdxl", "stable-diffusion-xl": "sdxl", "sd_v2": "sd2", "stable-diffusion-v2": "sd2"}
        marks |= {"sd_v1": "sd1", "stable-diffusion-v1": "sd1", "sd_1": "sd1"}
        return next((family for mark, family in marks.items() if mark in said), None)

    @cached_property
    def sgm_names(self) -> bool:
        """Whether UNet layers are called as in original checkpoints, not as in diffusers."""
        return any(_SGM.match(flat.removeprefix("lora_unet_")) for flat in self.layers if component(flat) == "unet")

    @cached_property
    def partial_attention(self) -> dict[str, set[str]]:
        """Text encoder attentions of which some, but not all four projections are there: stem to those there."""
        found: dict[str, set[str]] = {}
        for flat in self.layers:
            if match := _TEXT_ATTENTION.match(flat):
                found.setdefault(match[1], set()).add(match[2])
        return {stem: parts for stem, parts in found.items() if len(parts) < 4}

    @cached_property
    def alphas(self) -> dict[str, set[float | None]]:
        """The alphas of the LoRA layers of each component; None stands for absent ones."""
        found: dict[str, set[float | None]] = {}
        for flat, tensors in self.layers.items():
            if "lora_up.weight" in tensors:
                alpha = float(tensors["alpha"]) if "alpha" in tensors else None
                found.setdefault(component(flat), set()).add(alpha)
        return found


def component(flat: str) -> str:
    """`unet`, `te`, `te1` or `te2`."""
    match = _COMPONENT.match(flat)
    return match[1] if match else ""


def block(flat: str) -> str:
    """Where a layer sits: `unet down 1`, `unet mid`, `te layer 3`."""
    match = _COMPONENT.match(flat)
    if match is None:
        return "other"
    for pattern, replacement in _BLOCKS:
        if found := pattern.search(match[2]):
            return f"{match[1]} {found.expand(replacement)}"
    return f"{match[1]} other"


def rank(tensors: Mapping[str, Tensor]) -> int | None:
    """The rank of a layer's change as its kind counts it; None for kinds without."""
    for name in ("lora_down.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b", "a2.weight"):
        if name in tensors:
            return tensors[name].shape[0]
    return None


def input_width(tensors: Mapping[str, Tensor]) -> int | None:
    """The number of a layer's inputs, if its tensors show it."""
    for name in ("lora_down.weight", "diff", "a2.weight"):
        if name in tensors and tensors[name].dim() > 1:
            return tensors[name].shape[1]
    if "hada_w1_b" in tensors:
        return tensors["hada_w1_b"].shape[1]
    columns = [tensors[w].shape[1] for w in ("lokr_w1", "lokr_w1_b", "lokr_w2", "lokr_w2_b") if w in tensors]
    return columns[0] * columns[1] if len(columns) == 2 else None


def change_norm(tensors: Mapping[str, Tensor]) -> float | None:
    """Frobenius norm of a layer's change at strength 1; None where it depends on the weight."""
    if "dora_scale" in tensors:
        return None
    r = rank(tensors)
    scale = float(tensors["alpha"]) / r if "alpha" in tensors and r else 1.0
    f = {name: tensor.float().flatten(1) for name, tensor in tensors.items() if tensor.dim() > 1}
    if "lora_up.weight" in f and "lora_mid.weight" not in f:
        up, down = f["lora_up.weight"], f["lora_down.weight"]
        # |BA|^2 = tr(B^T B A A^T), which needs no matrix of the weight's size
        return abs(scale) * float(((up.mT @ up) * (down @ down.mT)).sum().clamp(min=0).sqrt())
    if "hada_w1_a" in f and "hada_t1" not in f:
        return abs(scale) * float(((f["hada_w1_a"] @ f["hada_w1_b"]) * (f["hada_w2_a"] @ f["hada_w2_b"])).norm())
    if any(name.startswith("lokr_") for name in f) and "lokr_t2" not in f:
        w1 = f["lokr_w1"] if "lokr_w1" in f else f["lokr_w1_a"] @ f["lokr_w1_b"]
        w2 = f["lokr_w2"] if "lokr_w2" in f else f["lokr_w2_a"] @ f["lokr_w2_b"]
        return abs(scale) * float(w1.norm() * w2.norm())
    for name in ("diff", "w_norm"):
        if name in tensors:
            return float(tensors[name].float().norm())
    return None


def _kind(tensors: Mapping[str, Tensor]) -> str:
    kind = kind_of(tensors)
    return "unknown" if kind is None else str(kind.model_fields["kind"].default)
