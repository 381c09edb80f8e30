"""What a file of tensors is, by its keys: a LoRA or a model of which kind, a part of a model, an embedding.

Bases, LoRAs and `inspect` all ask this one table, so that a file is called the same wherever it is given by mistake.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

SUPPORTED = "SD 1.x, SD 2.x, SDXL, SD 3, SD 3.5 and Flux"

FOREIGN_LORAS = (
    (r"single_transformer_blocks|(?:double|single)_blocks[._]\d", "a LoRA for Flux (or HunyuanVideo)"),
    (r"(?:^|[._])joint_blocks[._]\d", "a LoRA for Stable Diffusion 3"),
    (r"lora_prior_unet_|lora_prior_te_", "a LoRA for Stable Cascade"),
    (r"^(?:lora_unet_|diffusion_model\.|blocks\.)?blocks[._]\d+[._](?:self|cross)_attn", "a LoRA for Wan"),
    (r"^(?:lora_unet_|diffusion_model\.)layers[._]\d", "a LoRA for Lumina or Z-Image"),
    (r"^lora_te3_|^text_encoder_3\.", "a LoRA for Stable Diffusion 3 or Flux, whose third text encoder is T5"),
    (
        r"^(?:base_model\.model\.)?(?:lora_)?transformer[._]",
        "a LoRA for a diffusion transformer, such as Stable Diffusion 3, Qwen-Image or Flux",
    ),
)
"""Pattern of keys, and what such a file is. Only for files with a tensor of a LoRA."""
READABLE_TRANSFORMER = (
    r"^(?:base_model\.model\.|diffusion_model\.|lora_unet_|lycoris_)?(?:(?:lora_)?transformer[._])?"
    r"(?:(?:single_)?transformer|double|single|joint)_blocks[._]\d"
    r"|^lora_te[123]_|^text_encoder(?:_[23])?\.|^text_encoders\."
)
"""Keys of LoRAs for transformers in names that are read; whether they fit, the base decides."""
CONTROL_LORA = r"\.(?:query_norm|key_norm)\.scale$|\.lora_B\.bias$"
"""Keys of Black Forest Labs' control LoRAs, which change norms and biases and widen the input."""

_MODEL = r"^(?:model\.diffusion_model\.|diffusion_model\.|transformer\.)?"
FOREIGN_MODELS = (
    (_MODEL + r"(?:double_blocks|single_blocks|single_transformer_blocks)\.", "a Flux model (or HunyuanVideo)"),
    (_MODEL + r"joint_blocks\.", "a Stable Diffusion 3 or 3.5 model"),
    (_MODEL + r"transformer_blocks\.\d+\.attn\.add_k_proj", "a Stable Diffusion 3 or 3.5 model"),
    (_MODEL + r"(?:clip_txt_mapper|clip_txt_pooled_mapper|clip_mapper|effnet_mapper)\.", "a Stable Cascade model"),
    (_MODEL + r"double_layers\.", "an AuraFlow model"),
    (_MODEL + r"(?:adaln_single|y_embedder\.y_proj)\.", "a PixArt model"),
    (_MODEL + r"blocks\.\d+\.(?:self|cross)_attn\.", "a Wan model"),
    (_MODEL + r"(?:cap_embedder|context_refiner)\.", "a Lumina or Z-Image model"),
    (_MODEL + r"transformer_blocks\.", "a diffusion transformer"),
)
"""Pattern of keys, and the model of another architecture that it is."""

OTHER_FILES = (
    (r"ip_adapter|^image_proj", "an IP-Adapter", ""),
    (r"^control_model\.|controlnet_|^input_hint_block", "a ControlNet", ""),
    (r"(?:^|\.)motion_modules\.", "a motion module (AnimateDiff)", ""),
    (r"^(?:down_blocks|up_blocks|mid_block|conv_in|time_embedding)\.", "a UNet, or a part of one", "a folder of "
     "diffusers holds it as unet/, and the folder is the base"),
    (r"^(?:input_blocks|output_blocks|middle_block|time_embed)\.", "a UNet, or a part of one", "a complete checkpoint "
     "has it as model.diffusion_model.*, with a VAE and a text encoder; use that as the base"),
    (r"^(?:first_stage_model\.)?(?:encoder|decoder)\.(?:conv_in|down|up|mid)", "a VAE", "use it as the VAE of a base "
     "(vae = 'FILE')"),
    (r"^(?:text_model\.)?(?:embeddings|encoder\.layers)\.|^transformer\.resblocks\.", "a text encoder", "it is a part "
     "of a base"),
    (r"^encoder\.block\.\d+\.layer\.|^shared\.weight$", "a T5 text encoder", ""),
)  # fmt: skip
"""Pattern of keys, what the file is, and what to do with it. Only for files without a tensor of a LoRA."""

CHECKPOINT = r"^(?:model\.)?diffusion_model\.|^cond_stage_model\.|^conditioner\.embedders\."
CHECKPOINT_REMEDY = (
    "use it as the base (base = 'FILE', --base FILE); lorasmith extract makes a LoRA of it and of the model "
    "that it was trained from"
)
EMBEDDING_KEYS = frozenset(("emb_params", "clip_l", "clip_g", "string_to_param.*"))
LORA_KEY = r"lora_(?:up|down|mid|A|B|magnitude)|(?:hada|lokr)_w[12]|\.(?:dora_scale|oft_(?:blocks|diag|R)|boft_)|^lora_"


@dataclass(frozen=True)
class Contents:
    """What a file is."""

    what: str
    """With its article, such as `a Flux model`."""
    key: str
    """The key that shows it, shortened for messages."""
    remedy: str = ""
    """What to do with such a file; empty if Lorasmith has no use for it."""


def is_readable_transformer(keys: Collection[str]) -> bool:
    """Whether the keys are those of a LoRA for a transformer in diffusers' names."""
    return any(re.search(READABLE_TRANSFORMER, key) for key in keys)


def control_lora_key(keys: Collection[str]) -> str | None:
    """The key by which a LoRA is one for a further control image; None if it is an ordinary one."""
    found = _first(keys, ((CONTROL_LORA, ""),))
    return None if found is None else found.key


def foreign_lora(keys: Collection[str]) -> Contents | None:
    """The LoRA for another architecture that the keys of a LoRA are those of."""
    return _first(keys, FOREIGN_LORAS)


def other_file(keys: Collection[str]) -> Contents | None:
    """What a file without a tensor of a LoRA is; None for an embedding, and for what is not known."""
    whole = _first(keys, FOREIGN_MODELS) or _first(keys, ((CHECKPOINT, "a whole model (checkpoint)"),))
    if whole is not None:
        remedy = CHECKPOINT_REMEDY if whole.what.startswith("a whole") else ""
        return Contents(whole.what, whole.key, remedy)
    for pattern, what, remedy in OTHER_FILES:
        contents = _first(keys, ((pattern, what),))
        if contents is not None:
            return Contents(what, contents.key, remedy)
    return None


def not_a_base(keys: Collection[str]) -> Contents | None:
    """What a file is that is given as a base, but is something else; None for what may be a base."""
    lora = _first(keys, ((LORA_KEY, "a LoRA"),))
    if lora is not None:
        foreign = foreign_lora(keys)
        what = lora.what if foreign is None else foreign.what
        return Contents(what, lora.key, "name the model that it was made for as the base, and apply it with --lora")
    if len(keys) <= len(EMBEDDING_KEYS) and EMBEDDING_KEYS & set(keys):
        key = min(EMBEDDING_KEYS & set(keys))
        return Contents("an embedding (textual inversion)", key, "sample takes it with --embedding, beside a base")
    foreign_model = _first(keys, FOREIGN_MODELS)
    if foreign_model is not None:
        return foreign_model
    return None if _first(keys, ((CHECKPOINT, ""),)) else other_file(keys)


def _first(keys: Collection[str], table: tuple[tuple[str, str], ...]) -> Contents | None:
    """The first entry of a table of patterns that matches a key."""
    for pattern, what in table:
        search = re.compile(pattern).search
        for key in keys:
            if search(key):
                return Contents(what, key[:120])
    return None
