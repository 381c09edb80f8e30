"""`train_custom_diffusion.py` (arXiv 2212.04488): full keys and values of cross-attention, and new tokens."""

from __future__ import annotations

import json
from pathlib import Path

from lorasmith.compat.diffusers.options import CLASSES, CUSTOM, common, merged
from lorasmith.compat.diffusers.prior_preservation import DreamboothSubsets, dreambooth_batch_size
from lorasmith.compat.diffusers.shared import (
    Table,
    Values,
    convert_general,
    convert_optimizer,
    count_images,
    make_conversion,
    require,
)
from lorasmith.compat.script import Conversion, Parsed, Script
from lorasmith.core.errors import LorasmithError
from lorasmith.core.text_files import read_text
from lorasmith.data.config import NO_CAPTION_FILES

LAYERS = {
    "crossattn_kv": ["unet.*.attn2.to_k", "unet.*.attn2.to_v"],
    "crossattn": ["unet.*.attn2.to_q", "unet.*.attn2.to_k", "unet.*.attn2.to_v", "unet.*.attn2.to_out.0"],
}
"""Values of --freeze_model to the layers that are trained."""


class TrainCustomDiffusion(Script):
    """SD 1.x and 2.x."""

    name = "train_custom_diffusion"
    origin = "diffusers"
    options = merged(
        common(
            output_dir="custom-diffusion-model",
            seed=42,
            learning_rate=1e-5,
            num_validation_images=2,
            validation_steps=50,
            checkpointing_steps=250,
        ),
        CLASSES,
        CUSTOM,
    )

    def convert(self, parsed: Parsed) -> Conversion:
        values = parsed.values
        require(self, values, "pretrained_model_name_or_path")

        # Each concept has its own folders and prompts.
        instances: list[Table] = []
        classes: list[tuple[str | None, str | None]] = []
        for concept in read_concepts(self, values):
            instances.append(
                {
                    "images": concept["instance_data_dir"],
                    "caption": concept["instance_prompt"],
                    "caption_extension": NO_CAPTION_FILES,
                }
            )
            classes.append((concept.get("class_data_dir"), concept.get("class_prompt")))
        count = sum(count_images(subset["images"], "instance_data_dir") for subset in instances)
        subsets = DreamboothSubsets(values, instances, classes, count)

        config = convert_general(values, subsets.epoch_images)
        config["data"] = {
            "subsets": subsets.tables,
            "resolution": values["resolution"],
            "batch_size": dreambooth_batch_size(values),
            "transforms": [{"kind": "flip"}] if values["hflip"] else [],
        }
        config["adapter"] = {"kind": "full", "layers": LAYERS[values["freeze_model"]]}
        config["optimizer"] = convert_optimizer(values)
        if values["modifier_token"]:
            add_tokens(values, config)
        return make_conversion(self, parsed, config, prepare=subsets.prepare if subsets.jobs else None)


def add_tokens(values: Values, config: Table) -> None:
    """`concepts` and `trigger` for the new tokens, which are trained with the learning rate of the layers."""
    tokens = values["modifier_token"].split("+")
    initializers = values["initializer_token"].split("+")
    # The default has three initializers, so there may be more of them than tokens.
    if len(initializers) < len(tokens):
        raise LorasmithError(
            f"--initializer_token has {len(initializers)} words, --modifier_token has {len(tokens)}; give as many"
        )
    config["concepts"] = [
        {"words": [token], "init": initializer, "lr": config["optimizer"]["lr"]}
        for token, initializer in zip(tokens, initializers, strict=False)
    ]
    config["trigger"] = tokens


def read_concepts(script: Script, values: Values) -> list[Table]:
    """The concepts of --concepts_list, or the one that the other options describe."""
    if not values["concepts_list"]:
        require(script, values, "instance_data_dir", "instance_prompt")
        return [values]
    path = Path(values["concepts_list"])
    try:
        concepts = json.loads(read_text(path))
        if all({"instance_data_dir", "instance_prompt"} <= set(concept) for concept in concepts):
            return concepts
        fault = "each entry needs instance_data_dir and instance_prompt"
    except (OSError, ValueError, TypeError) as error:
        fault = str(error)
    raise LorasmithError(f"--concepts_list {path}: not a list of concepts ({fault})")
