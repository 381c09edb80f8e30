"""`textual_inversion.py`: new words alone."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from lorasmith.compat.diffusers.options import INVERSION, common, merged
from lorasmith.compat.diffusers.shared import conversion, count_images, general, needed, optimizer
from lorasmith.compat.options import Option
from lorasmith.compat.prompt_templates import TEMPLATES
from lorasmith.compat.script import Conversion, Parsed, Script
from lorasmith.formats.token_embeddings import file_name


class TextualInversion(Script):
    """SD 1.x and 2.x, and with their names for it SDXL."""

    name = "textual_inversion"
    origin = "diffusers"
    options: ClassVar[tuple[Option, ...]] = merged(
        tuple(
            o
            for o in common(output_dir="text-inversion-model", train_batch_size=16, num_train_epochs=100)
            if o.name not in ("max_grad_norm", "validation_epochs")
        ),
        (
            Option("max_grad_norm", "float", 0.0, to="optimizer.clip", note="they do not clip"),
            Option("validation_epochs", "int", state="refused", note="use --validation_steps"),
            Option("validation_steps", "int", 100, to="preview.every_steps"),
            Option("max_train_steps", "int", 5000, to="steps"),
            Option(
                "mixed_precision",
                "text",
                "no",
                to="precision",
                choices=("no", "fp16", "bf16"),
                state="improved",
                note="explicit dtypes",
            ),
        ),
        INVERSION,
    )

    def convert(self, parsed: Parsed) -> Conversion:
        v = parsed.values
        needed(self, v, "pretrained_model_name_or_path", "train_data_dir", "placeholder_token", "initializer_token")
        word = v["placeholder_token"].strip()
        count = count_images(v["train_data_dir"], "train_data_dir") * v["repeats"]
        config = general(v, count) | {
            "trigger": [word],
            "data": {
                "subsets": [
                    {
                        "images": v["train_data_dir"],
                        "caption": word,
                        "caption_extension": [".no-captions"],
                        "repeats": v["repeats"],
                    }
                ],
                "resolution": v["resolution"],
                "batch_size": v["train_batch_size"],
                "transforms": [{"kind": "flip"}, {"kind": "template", "templates": TEMPLATES[v["learnable_property"]]}],
            },
            "concepts": [
                {
                    "words": [word],
                    "vectors": v["num_vectors"],
                    "init": v["initializer_token"],
                    "lr": optimizer(v)["lr"],
                    "weight_decay": v["adam_weight_decay"],
                }
            ],
            "optimizer": optimizer(v, unet=False),
            "export": {"every_steps": v["save_steps"]},
        }
        copies = {f"embeddings/{file_name(word)}.safetensors": Path(v["output_dir"]) / "learned_embeds.safetensors"}
        return conversion(self, parsed, config, copy_targets=copies)


class TextualInversionSdxl(TextualInversion):
    """SDXL: a vector for each of its text encoders."""

    name = "textual_inversion_sdxl"
