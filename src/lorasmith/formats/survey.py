"""What the tensors of a LoRA file alone show: adapter kinds, ranks, family, and the norm of each layer's change."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from lorasmith.adapters.base import kind_of
from lorasmith.formats.lora_file import LoraFile
from lorasmith.formats.rewrite import LayerTensors

T5 = "t5"
"""The component of T5's layers, whatever number a trainer gives it among the text encoders."""
_T5 = re.compile(r"lora_te\d?_(?:t5xxl_)?(?:transformer_)?encoder_block_\d")
_COMPONENT = re.compile(r"lora_(unet|transformer|te\d?)_(.*)")
_TRANSFORMER_LAYER = re.compile(
    r"lora_(?:transformer_|unet_(?=(?:double|single|joint)_blocks|(?:single_)?transformer_blocks|final_layer|img_in|"
    r"txt_in|time_in|vector_in|guidance_in|[xty]_embedder|context_embedder|pos_embed|norm_out|proj_out|time_text_embed))"
)
"""Start of the flat name of a layer of a diffusion transformer, in diffusers' or its authors' names."""
_FLUX = re.compile(r"_(?:double_blocks|single_blocks|single_transformer_blocks)_\d")
_SD3 = re.compile(r"_joint_blocks_\d|_transformer_blocks_\d+_attn2_")
_TRANSFORMER_WIDTH = re.compile(r"_transformer_blocks_\d+_(?:attn_|ff_net_0|ff_context_net_0|norm1)")
FAMILY_BY_TRANSFORMER_WIDTH = {3072: "flux", 1536: "sd3", 2432: "sd3"}
"""By the width of a transformer whose blocks have the names that Flux and SD3 share."""
_CROSS_ATTENTION_INPUT = re.compile(r"attn2_to_[kv]$")
_TEXT_PROJECTION = re.compile(r"(.*self_attn_)(q|k|v|out)_proj$")
_ORIGINAL_NAME = re.compile(r"(input_blocks|middle_block|output_blocks|time_embed_\d|label_emb|out_\d)")
_BLOCKS = (
    (re.compile(r"(down|up|input|output)_blocks_(\d+)"), r"\1 \2"),
    (re.compile(r"mid(?:dle)?_block"), "mid"),
    (re.compile(r"encoder_layers_(\d+)"), r"layer \1"),
    (re.compile(r"(double|single|joint)_blocks_(\d+)"), r"\1 \2"),
    (re.compile(r"single_transformer_blocks_(\d+)"), r"single \1"),
    (re.compile(r"transformer_blocks_(\d+)"), r"block \1"),
    (re.compile(r"encoder_block_(\d+)"), r"layer \1"),
)
"""Pattern of a block in a flat name, and the name to show for it."""
FAMILY_BY_CONTEXT_WIDTH = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""By the width of the text context that cross-attention reads."""
FAMILY_BY_TEXT_WIDTH = {768: "sd1", 1024: "sd2"}
"""By the width of the only text encoder."""
FAMILY_MARKERS = {
    "flux": "flux",
    "sd3": "sd3",
    "stable-diffusion-3": "sd3",
    "stable-diffusion-v3": "sd3",
    "sdxl": "sdxl",
    "stable-diffusion-xl": "sdxl",
    "sd_v2": "sd2",
    "stable-diffusion-v2": "sd2",
    "sd_v1": "sd1",
    "stable-diffusion-v1": "sd1",
    "sd_1": "sd1",
}
"""Text in the metadata that names a family; the first match counts."""

MAX_ELEMENTS = 1 << 27
"""Elements of a change whose norm is computed; the largest layer of SDXL has 30 million."""


@dataclass(frozen=True)
class Survey:
    """A file's layers, by their flat names in kohya's spelling, and what they show."""

    file: LoraFile

    @cached_property
    def layers(self) -> dict[str, LayerTensors]:
        """Tensors by flat layer name and tensor name; keys that are not of a layer are in `unknown_keys`."""
        layers: dict[str, LayerTensors] = {}
        for key, tensor in self.file.tensors.items():
            flat_name, _, tensor_name = key.partition(".")
            if tensor_name and _COMPONENT.match(flat_name):
                layers.setdefault(flat_name, {})[tensor_name] = tensor
        return layers

    @cached_property
    def unknown_keys(self) -> list[str]:
        """Keys of tensors that belong to no layer."""
        return [key for key in self.file.tensors if key.partition(".")[0] not in self.layers]

    @cached_property
    def kind_by_layer(self) -> dict[str, str]:
        """The adapter kind of each layer; `unknown` if no kind has its tensors."""
        kinds: dict[str, str] = {}
        for flat_name, tensors in self.layers.items():
            kind = kind_of(tensors)
            kinds[flat_name] = "unknown" if kind is None else str(kind.model_fields["kind"].default)
        return kinds

    @cached_property
    def kinds(self) -> Counter[str]:
        """The number of layers of each adapter kind."""
        return Counter(self.kind_by_layer.values())

    @cached_property
    def components(self) -> Counter[str]:
        """The number of layers of each component: `unet`, `transformer`, `te`, `te1`, `te2`, `t5`."""
        return Counter(component_of(flat_name) for flat_name in self.layers)

    @cached_property
    def family(self) -> str | None:
        """`sd1`, `sd2`, `sdxl`, `sd3` or `flux`: by the names and widths of layers, or else by the metadata; None if
        neither shows it."""
        if any(_TRANSFORMER_LAYER.match(flat_name) for flat_name in self.layers):
            return self._transformer_family() or self._family_in_metadata()
        # text encoders of SD3 and Flux look like those of SDXL and SD 1.x
        if self._family_in_metadata() in ("sd3", "flux"):
            return self._family_in_metadata()
        return self._stable_diffusion_family() or self._family_in_metadata()

    def _stable_diffusion_family(self) -> str | None:
        """The family of a UNet or of text encoders by the widths of layers; None if they do not show it."""
        # the width of the text context differs in all families
        for flat_name, tensors in self.layers.items():
            width = input_width(tensors)
            if _CROSS_ATTENTION_INPUT.search(flat_name) and width in FAMILY_BY_CONTEXT_WIDTH:
                return FAMILY_BY_CONTEXT_WIDTH[width]
        if "te2" in self.components:
            return "sdxl"
        # the text encoder's width tells SD 1.x from 2.x; SDXL's first text encoder alone would look like SD 1.x
        if self.components.keys() <= {"te", "te1"}:
            for flat_name, tensors in self.layers.items():
                width = input_width(tensors)
                if "attn" in flat_name and width in FAMILY_BY_TEXT_WIDTH:
                    return FAMILY_BY_TEXT_WIDTH[width]
        return None

    def _transformer_family(self) -> str | None:
        """The family of a transformer by its layers; None if they do not show it."""
        for flat_name, tensors in self.layers.items():
            if _FLUX.search(flat_name):
                return "flux"
            if _SD3.search(flat_name):
                return "sd3"
            width = input_width(tensors)
            if _TRANSFORMER_WIDTH.search(flat_name) and width in FAMILY_BY_TRANSFORMER_WIDTH:
                return FAMILY_BY_TRANSFORMER_WIDTH[width]
        return None

    def _family_in_metadata(self) -> str | None:
        version = self.file.metadata.get("ss_base_model_version", "")
        architecture = self.file.metadata.get("modelspec.architecture", "")
        text = f"{version} {architecture}".lower()
        for marker, family in FAMILY_MARKERS.items():
            if marker in text:
                return family
        return None

    @cached_property
    def has_original_names(self) -> bool:
        """Whether UNet layers have the names of original checkpoints, not those of diffusers."""
        unet_layers = (name for name in self.layers if component_of(name) == "unet")
        return any(_ORIGINAL_NAME.match(name.removeprefix("lora_unet_")) for name in unet_layers)

    @cached_property
    def has_both_transformer_names(self) -> bool:
        """Whether some layers of a transformer have the names of its authors' files, and others diffusers'."""
        starts = {name.split("_")[1] for name in self.layers if component_of(name) == "transformer"}
        return len(starts) > 1

    @cached_property
    def partial_attentions(self) -> dict[str, set[str]]:
        """Text encoder attentions of which the file has some, but not all four projections: name to projections."""
        attentions: dict[str, set[str]] = {}
        for flat_name in self.layers:
            projection = _TEXT_PROJECTION.match(flat_name)
            if projection:
                attentions.setdefault(projection[1], set()).add(projection[2])
        return {name: projections for name, projections in attentions.items() if len(projections) < 4}


def component_of(flat_name: str) -> str:
    """`unet`, `transformer`, `te`, `te1`, `te2` or `t5`; empty for a name that is not of a layer."""
    if _T5.match(flat_name):
        return T5
    if _TRANSFORMER_LAYER.match(flat_name):
        return "transformer"
    match = _COMPONENT.match(flat_name)
    return match[1] if match else ""


def block_of(flat_name: str) -> str:
    """The block that a layer is in: `unet down 1`, `unet mid`, `te layer 3`."""
    layer = _COMPONENT.match(flat_name)
    if layer is None:
        return "other"
    component, path = component_of(flat_name), layer[2]
    for pattern, template in _BLOCKS:
        block = pattern.search(path)
        if block:
            return f"{component} {block.expand(template)}"
    return f"{component} other"


def rank_of(tensors: Mapping[str, Tensor]) -> int | None:
    """The rank of a layer's change as its kind counts it; None for kinds without ranks."""
    for name in ("lora_down.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b", "a2.weight"):
        if name in tensors:
            return tensors[name].shape[0]
    return None


def input_width(tensors: Mapping[str, Tensor]) -> int | None:
    """The number of a layer's inputs; None if its tensors do not show it."""
    for name in ("lora_down.weight", "diff", "a2.weight"):
        if name in tensors and tensors[name].dim() > 1:
            return tensors[name].shape[1]
    if "hada_w1_b" in tensors:
        return tensors["hada_w1_b"].shape[1]
    # LoKr: the columns of both Kronecker factors, each whole or the second of two factors
    columns: list[int] = []
    for name in ("lokr_w1", "lokr_w1_b", "lokr_w2", "lokr_w2_b"):
        if name in tensors:
            columns.append(tensors[name].shape[1])
    return columns[0] * columns[1] if len(columns) == 2 else None


def change_norm(tensors: Mapping[str, Tensor]) -> float | None:
    """Frobenius norm of a layer's change at strength 1; None where it depends on the base weight or has a Tucker
    core."""
    if {"dora_scale", "lora_mid.weight", "hada_t1", "lokr_t2"} & tensors.keys():
        return None
    matrices = {name: tensor.float().flatten(1) for name, tensor in tensors.items() if tensor.dim() > 1}
    if "lora_up.weight" in matrices:
        return _scale_of(tensors) * _product_norm(matrices["lora_up.weight"], matrices["lora_down.weight"])
    if "hada_w1_a" in matrices:
        # a small file can stand for a product that no memory holds
        if matrices["hada_w1_a"].shape[0] * matrices["hada_w1_b"].shape[1] > MAX_ELEMENTS:
            return None
        first = matrices["hada_w1_a"] @ matrices["hada_w1_b"]
        second = matrices["hada_w2_a"] @ matrices["hada_w2_b"]
        return _scale_of(tensors) * float((first * second).norm())
    if any(name.startswith("lokr_") for name in matrices):
        # |kron(A, B)| = |A| |B|
        first_norm, second_norm = _kronecker_norm(matrices, "lokr_w1"), _kronecker_norm(matrices, "lokr_w2")
        return _scale_of(tensors) * first_norm * second_norm
    # full differences of weights and of norms
    for name in ("diff", "w_norm"):
        if name in tensors:
            return float(tensors[name].float().norm())
    return None


def _scale_of(tensors: Mapping[str, Tensor]) -> float:
    """|alpha / rank|; 1 where there is no alpha or no rank."""
    rank = rank_of(tensors)
    return abs(float(tensors["alpha"]) / rank) if "alpha" in tensors and rank else 1.0


def _product_norm(up: Tensor, down: Tensor) -> float:
    """Frobenius norm of up @ down, without the larger of its (out, in) and of the (rank, rank) matrices of a trace."""
    rank = down.shape[0]
    if rank * rank > up.shape[0] * down.shape[1]:
        return float((up @ down).norm())
    # |BA|^2 = tr(B^T B A A^T)
    squared_norm = ((up.mT @ up) * (down @ down.mT)).sum().clamp(min=0)
    return float(squared_norm.sqrt())


def _kronecker_norm(matrices: Mapping[str, Tensor], name: str) -> float:
    if name in matrices:
        return float(matrices[name].norm())
    return _product_norm(matrices[f"{name}_a"], matrices[f"{name}_b"])
