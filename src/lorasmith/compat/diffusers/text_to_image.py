"""`train_text_to_image_lora.py` and its SDXL form: many pictures, each with its caption."""

from __future__ import annotations

from typing import ClassVar

from lorasmith.compat.diffusers.datasets import images_of
from lorasmith.compat.diffusers.options import DATASET, LORA, XL, common, merged
from lorasmith.compat.diffusers.shared import conversion, exports, general, lora, needed, objective, optimizer
from lorasmith.compat.options import Option
from lorasmith.compat.script import Conversion, Parsed, Script
from lorasmith.data.config import SubsetConfig
from lorasmith.data.scan import scan

OUTPUT = "sd-model-finetuned-lora"
OWN = (
    Option("train_data_dir", "text", to="data.images", note="an imagefolder with metadata.jsonl or metadata.csv"),
    Option("max_train_samples", "int", note="of a hub data set"),
    Option("prediction_type", "text", to="prediction", choices=("epsilon", "v_prediction")),
)


class TrainTextToImageLora(Script):
    """SD 1.x and 2.x; the text encoder stays as it is."""

    name = "train_text_to_image_lora"
    origin = "diffusers"
    options: ClassVar[tuple[Option, ...]] = merged(
        common(output_dir=OUTPUT, train_batch_size=16, num_train_epochs=100, validation_epochs=1),
        DATASET,
        tuple(o for o in LORA if o.name == "rank"),
        OWN,
    )

    def convert(self, parsed: Parsed) -> Conversion:
        v = parsed.values
        needed(self, v, "pretrained_model_name_or_path")
        own, download = images_of(v, "train_data_dir", None)
        count = v["max_train_samples"] or 0
        if download is None:
            found = scan(SubsetConfig.model_validate(own), "data", skip_bad=True)
            count = len(found.records)
        out = exports(v["output_dir"])
        config = general(v, count) | out["config"]
        if download is not None and not v["max_train_steps"]:  # how many pictures come is known only then
            config |= {"steps": None, "epochs": v["num_train_epochs"]}
        config |= {
            "data": {
                "subsets": [own],
                "resolution": v["resolution"],
                "batch_size": v["train_batch_size"],
                "transforms": [{"kind": "flip"}] if v["random_flip"] else [],
            },
            "adapter": lora(v),
            "optimizer": optimizer(v, v["learning_rate"] if v.get("train_text_encoder") else 0.0),
            "objective": objective(v),
        }
        if v["prediction_type"]:
            config["prediction"] = v["prediction_type"]
        return conversion(self, parsed, config, copy_targets=out["copies"], prepare=download)


class TrainTextToImageLoraSdxl(TrainTextToImageLora):
    """SDXL."""

    name = "train_text_to_image_lora_sdxl"
    options = merged(
        TrainTextToImageLora.options,
        LORA,
        XL,
        common(output_dir=OUTPUT, resolution=1024, train_batch_size=16, num_train_epochs=100, validation_epochs=1),
    )
