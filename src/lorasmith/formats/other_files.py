"""What a file is that is not a LoRA for Stable Diffusion: a LoRA for another model, a checkpoint, an embedding."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from lorasmith.core.errors import LorasmithError

_FOREIGN_LORAS = (
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
"""Pattern of keys, and what such a file is."""
_OTHER_FILES = (
    (r"ip_adapter|^image_proj", "an IP-Adapter", ""),
    (r"^control_model\.|controlnet_|^input_hint_block", "a ControlNet", ""),
    (
        r"^(?:model\.)?diffusion_model\.|^cond_stage_model\.|^conditioner\.embedders\.",
        "a whole model (checkpoint)",
        "use it as the base (base = 'FILE', --base FILE); lorasmith extract makes a LoRA of it and of the model "
        "that it was trained from",
    ),
    (r"^(?:transformer_blocks|double_blocks|single_blocks|joint_blocks)\.", "a diffusion transformer", ""),
    (r"^(?:down_blocks|up_blocks|mid_block|conv_in|time_embedding)\.", "a UNet, or a part of one", "a folder of "
     "diffusers holds it as unet/, and the folder is the base"),
    (r"^(?:first_stage_model\.)?(?:encoder|decoder)\.(?:conv_in|down|up|mid)", "a VAE", "use it as the VAE of a base"),
    (r"^(?:text_model\.)?(?:embeddings|encoder\.layers)\.", "a text encoder", "it is a part of a base"),
)  # fmt: skip
"""Pattern of keys, what the file is, and what to do with it. Only for files without a tensor of a LoRA."""
_EMBEDDING_KEYS = {"emb_params", "clip_l", "clip_g", "string_to_param.*"}


def refuse_other_files(keys: Sequence[str], is_lora_key: Callable[[str], bool]) -> None:
    """Raise LorasmithError for keys of a LoRA for another model, and of a model in place of a LoRA."""
    if any(is_lora_key(key) for key in keys):
        for pattern, what in _FOREIGN_LORAS:
            example = _first_match(pattern, keys)
            if example:
                raise LorasmithError(f"is {what}, by its key {example}; LoRAs for SD 1.x, SD 2.x and SDXL are read")
        return
    for pattern, what, remedy in _OTHER_FILES:
        example = _first_match(pattern, keys)
        if example:
            advice = f"\n    to do: {remedy}" if remedy else ""
            raise LorasmithError(f"is {what}, not a LoRA, by its key {example}{advice}")


def _first_match(pattern: str, keys: Sequence[str]) -> str:
    """The first key that a pattern is found in, shortened for a message; empty if there is none."""
    return next((key[:120] for key in keys if re.search(pattern, key)), "")


def embedding_advice(keys: Iterable[str]) -> str:
    """What to do with an embedding that was given as a LoRA, as the end of an error message; empty for other files."""
    if not set(keys) & _EMBEDDING_KEYS:
        return ""
    return (
        "\n    to do: it is an embedding (textual inversion), a new token and not a change of layers; "
        "sample takes it with --embedding"
    )
