"""Scripts of other trainers that people bring and that cannot be run here, with the reason in words."""

from __future__ import annotations

from collections.abc import Mapping

LECO = (
    "it erases or strengthens a concept from prompts alone (LECO): each step draws a part of a picture with the LoRA "
    "and trains towards guided outputs of the base, without images. Runs here are made of images and epochs"
)
OTHER_MODEL = "it trains another family of models; SD 1.x, 2.x, SDXL, SD 3, SD 3.5 and Flux.1 are trained here"
CONTROL = "it trains a ControlNet, and only LoRAs and new tokens are trained here"
FULL = "it trains the whole model; a LoRA of it is trained by {lora}, with adapter.kind = full for full weights"

UNSUPPORTED: Mapping[str, str] = {
    "train_leco": LECO,
    "sdxl_train_leco": LECO,
    "anima_train_leco": LECO,
    **dict.fromkeys(("train_controlnet", "train_control_net", "sdxl_train_control_net"), CONTROL),
    **dict.fromkeys(("sdxl_train_control_net_lllite", "train_controlnet_sdxl", "flux_train_control_net"), CONTROL),
    "sdxl_train": FULL.format(lora="sdxl_train_network"),
    "sd3_train": FULL.format(lora="sd3_train_network"),
    "flux_train": FULL.format(lora="flux_train_network"),
    "fine_tune": FULL.format(lora="train_network"),
    "train_text_to_image": FULL.format(lora="train_text_to_image_lora"),
    "train_text_to_image_sdxl": FULL.format(lora="train_text_to_image_lora_sdxl"),
    "train_dreambooth": FULL.format(lora="train_dreambooth_lora, or train_db"),
    **{
        f"{model}_{script}": OTHER_MODEL
        for model in ("lumina", "hunyuan_image", "anima")
        for script in ("train_network", "train")
    },
    **{
        f"train_dreambooth_lora_{model}": OTHER_MODEL
        for model in (
            "flux_advanced",
            "flux_kontext",
            "flux2",
            "sana",
            "lumina2",
            "hidream",
            "qwen_image",
        )
    },
}
"""Name of the script to why it is not run."""
