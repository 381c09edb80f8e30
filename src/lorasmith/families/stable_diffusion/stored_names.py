"""Tensors of a part under today's parameter names of diffusers and transformers, whatever the file calls them.

What a file has beyond the names that are looked up stays under its name in the file, so that it can be reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lorasmith.families.reader import TensorRef
from lorasmith.families.stable_diffusion import ldm_names

_UNUSED = ("position_ids", "logit_scale", "attn_mask")
"""Tensors that some files have and the text encoders do not use."""
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def renamed(refs: Mapping[str, TensorRef], stored: Mapping[str, str]) -> dict[str, TensorRef]:
    """Tensors under our names. `stored`: our name to the name in the file."""
    rest = dict(refs)
    result: dict[str, TensorRef] = {}
    for name, name_in_file in stored.items():
        if name_in_file in rest:
            result[name] = rest.pop(name_in_file)
    return result | rest


def current_vae_names(refs: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """A diffusers VAE with the attention names of today. Diffusers before 0.15 had others, which the published SD 1.5
    folder still has."""
    result: dict[str, TensorRef] = {}
    for name, ref in refs.items():
        if ".attentions." in name:
            for old, new in _OLD_ATTENTION.items():
                name = name.replace(f".{old}.", f".{new}.")
        result[name] = ref
    return result


def original_vae(refs: Mapping[str, TensorRef], names: Iterable[str], levels: int) -> dict[str, TensorRef]:
    """An original-layout VAE under diffusers' names. `levels`: how many resolutions it has."""
    used = {name: ref for name, ref in refs.items() if not name.startswith(("loss.", "model_ema."))}
    result = renamed(used, {name: ldm_names.vae_name(name, levels) for name in names})
    for name, ref in result.items():
        # 1x1 convolutions in the file, linear layers in diffusers
        if ".attentions." in name and len(ref.shape) == 4:
            result[name] = ref.view(*ref.shape[:2])
    return result


def text_encoder_names(refs: Mapping[str, TensorRef], names: Iterable[str]) -> dict[str, TensorRef]:
    """transformers' text encoder without the prefix `text_model.`, which some versions of transformers write."""
    wanted = set(names)
    result: dict[str, TensorRef] = {}
    for name, ref in refs.items():
        plain = name.removeprefix("text_model.")
        if plain in wanted or not _is_unused(plain):
            result[plain] = ref
    return result


def from_openclip(refs: Mapping[str, TensorRef], names: Iterable[str], layers: int) -> dict[str, TensorRef]:
    """OpenCLIP's text encoder under transformers' names. `layers`: how many layers the model uses."""
    result: dict[str, TensorRef] = {}
    used: set[str] = set()
    for name in names:
        key, ref = ldm_names.openclip_ref(name, refs)
        used.add(key)
        if ref is not None:
            result[name] = ref
    for key, ref in refs.items():
        layer = key.removeprefix("transformer.resblocks.").split(".")[0]
        beyond = layer.isdigit() and int(layer) >= layers  # SD 2.x never uses OpenCLIP's last layer
        if key not in used and not beyond and not _is_unused(key):
            result[key] = ref
    return result


def _is_unused(name: str) -> bool:
    return name.rpartition(".")[2] in _UNUSED or name.startswith("text_projection")
