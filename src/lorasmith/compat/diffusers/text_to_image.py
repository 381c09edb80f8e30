"""`train_text_to_image_lora.py` and its SDXL form: many images, each with its caption."""

from __future__ import annotations

from typing import ClassVar

from lorasmith.compat.diffusers.datasets import find_images
from lorasmith.compat.diffusers.options import DATASET, LORA, XL, common, merged
from lorasmith.compat.diffusers.shared import (
    DIFFUSERS_EXPORT,
    convert_general,
    convert_lora,
    convert_objective,
    convert_optimizer,
    diffusers_copy_targets,
    make_conversion,
    require,
)
from lorasmith.compat.diffusers.usage import LOAD_LORA
from lorasmith.compat.options import Option
from lorasmith.compat.script import Conversion, Parsed, Script

OUTPUT = "sd-model-finetuned-lora"
OWN = (
    Option(
        "train_data_dir",
        "text",
        to="data.images",
        note="an imagefolder: images in folders of any depth, with metadata.jsonl or metadata.csv in any of them; or "
        "with caption files",
    ),
    Option("max_train_samples", "int", to="data.subsets.part", note="the first ones, in the order of their names"),
    Option("prediction_type", "text", to="prediction", choices=("epsilon", "v_prediction")),
)


class TrainTextToImageLora(Script):
    """SD 1.x and 2.x; the text encoder is not trained."""

    name = "train_text_to_image_lora"
    origin = "diffusers"
    options: ClassVar[tuple[Option, ...]] = merged(
        common(output_dir=OUTPUT, train_batch_size=16, num_train_epochs=100, validation_epochs=1),
        DATASET,
        tuple(option for option in LORA if option.name == "rank"),
        OWN,
    )

    def convert(self, parsed: Parsed) -> Conversion:
        values = parsed.values
        require(self, values, "pretrained_model_name_or_path")
        source = find_images(values, "train_data_dir", None)
        config = convert_general(values, source.count)
        config["data"] = {
            "subsets": source.subsets,
            "resolution": values["resolution"],
            "batch_size": values["train_batch_size"],
            "transforms": [{"kind": "flip"}] if values["random_flip"] else [],
            # The original stops at a data set without captions, too.
            "empty_captions": False,
        }
        text_lr = values["learning_rate"] if values.get("train_text_encoder") else 0.0
        config["adapter"] = convert_lora(values)
        config["optimizer"] = convert_optimizer(values, text_lr)
        config["objective"] = convert_objective(values)
        config["export"] = DIFFUSERS_EXPORT
        if values["prediction_type"]:
            config["prediction"] = values["prediction_type"]
        copy_targets = diffusers_copy_targets(values["output_dir"])
        return make_conversion(self, parsed, config, LOAD_LORA, copy_targets=copy_targets, prepare=source.download)


class TrainTextToImageLoraSdxl(TrainTextToImageLora):
    """SDXL."""

    name = "train_text_to_image_lora_sdxl"
    options = merged(
        TrainTextToImageLora.options,
        LORA,
        XL,
        common(output_dir=OUTPUT, resolution=1024, train_batch_size=16, num_train_epochs=100, validation_epochs=1),
    )
