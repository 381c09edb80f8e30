"""`textual_inversion.py` and its SDXL form: new tokens only."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from lorasmith.compat.diffusers.options import INVERSION, common, merged
from lorasmith.compat.diffusers.shared import (
    convert_general,
    convert_learning_rate,
    convert_optimizer,
    count_images,
    make_conversion,
    require,
)
from lorasmith.compat.diffusers.usage import load_tokens
from lorasmith.compat.options import Option
from lorasmith.compat.prompt_templates import TEMPLATES
from lorasmith.compat.script import Conversion, Parsed, Script
from lorasmith.data.config import NO_CAPTION_FILES
from lorasmith.formats.token_embeddings import file_name

EMBEDDINGS_FILE = "learned_embeds.safetensors"
"""The original's name of the file."""
OWN = (
    Option("max_grad_norm", "float", 0.0, to="optimizer.clip", note="the original does not clip"),
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
        note="explicit dtypes, no autocast",
    ),
)
"""Options that differ from those of the other scripts."""
REPLACED = ("max_grad_norm", "validation_epochs")
"""Common options that are listed with `OWN` instead."""


class TextualInversion(Script):
    """SD 1.x and 2.x."""

    name = "textual_inversion"
    origin = "diffusers"
    options: ClassVar[tuple[Option, ...]] = merged(
        tuple(
            option
            for option in common(output_dir="text-inversion-model", train_batch_size=16, num_train_epochs=100)
            if option.name not in REPLACED
        ),
        OWN,
        INVERSION,
    )

    def convert(self, parsed: Parsed) -> Conversion:
        values = parsed.values
        required = ("pretrained_model_name_or_path", "train_data_dir", "placeholder_token", "initializer_token")
        require(self, values, *required)
        token = values["placeholder_token"].strip()
        image_count = count_images(values["train_data_dir"], "train_data_dir") * values["repeats"]
        config = convert_general(values, image_count)
        config["trigger"] = [token]
        config["data"] = {
            "subsets": [
                {
                    "images": values["train_data_dir"],
                    "caption": token,
                    "caption_extension": list(NO_CAPTION_FILES),
                    "repeats": values["repeats"],
                }
            ],
            "resolution": values["resolution"],
            "batch_size": values["train_batch_size"],
            "transforms": [
                {"kind": "flip"},
                {"kind": "template", "templates": TEMPLATES[values["learnable_property"]]},
            ],
        }
        config["concepts"] = [
            {
                "words": [token],
                "vectors": values["num_vectors"],
                "init": values["initializer_token"],
                "lr": convert_learning_rate(values),
                "weight_decay": values["adam_weight_decay"],
            }
        ]

        # Only the new token is trained: with rates of 0 there is no adapter.
        config["optimizer"] = convert_optimizer(values)
        config["optimizer"]["unet_lr"] = 0.0
        config["export"] = {"every_steps": values["save_steps"]}
        embeddings = f"embeddings/{file_name(token)}.safetensors"
        copy_targets = {embeddings: Path(values["output_dir"]) / EMBEDDINGS_FILE}
        return make_conversion(self, parsed, config, self.usage(token), copy_targets=copy_targets)

    def usage(self, token: str) -> tuple[str, ...]:
        """Lines of Python that load the token from the repository `repo`."""
        return (f"pipe.load_textual_inversion(repo, weight_name={EMBEDDINGS_FILE!r}, token={token!r})",)


class TextualInversionSdxl(TextualInversion):
    """SDXL: a vector for each of its text encoders."""

    name = "textual_inversion_sdxl"

    def usage(self, token: str) -> tuple[str, ...]:
        return load_tokens(EMBEDDINGS_FILE, [token], ("clip_l", "clip_g"))
