"""The DreamBooth scripts: LoRAs of a few images with one prompt or captions, optionally with class images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from lorasmith.compat.diffusers.datasets import Download, find_images
from lorasmith.compat.diffusers.options import (
    ADVANCED,
    BLOCKS,
    CLASSES,
    DATASET,
    DREAMBOOTH,
    LORA,
    PIVOTAL,
    TEXT_WEIGHT_DECAY,
    XL,
    common,
    merged,
)
from lorasmith.compat.diffusers.prior_preservation import DRAWN, DreamboothSubsets, dreambooth_batch_size
from lorasmith.compat.diffusers.shared import (
    DIFFUSERS_EXPORT,
    Table,
    Values,
    convert_general,
    convert_lora,
    convert_objective,
    convert_optimizer,
    count_images,
    diffusers_copy_targets,
    make_conversion,
    require,
)
from lorasmith.compat.diffusers.usage import LOAD_LORA, load_tokens
from lorasmith.compat.options import Option
from lorasmith.compat.script import Conversion, Parsed, Script
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.data.config import NO_CAPTION_FILES

OUTPUT = "lora-dreambooth-model"
B_LORA_BLOCKS = ("unet.up_blocks.0.attentions.0", "unet.up_blocks.0.attentions.1")
"""Of SDXL: the content of a picture, and its style (arXiv 2403.14572)."""
CAPTION_COLUMN = Option("caption_column", "text", to="data")
"""Unlike in other scripts, without a default: the instance prompt is used instead of captions."""


class TrainDreamboothLora(Script):
    """`train_dreambooth_lora.py`."""

    name = "train_dreambooth_lora"
    origin = "diffusers"
    options: ClassVar[tuple[Option, ...]] = merged(
        common(output_dir=OUTPUT, learning_rate=5e-4), LORA, CLASSES, DREAMBOOTH
    )

    def convert(self, parsed: Parsed) -> Conversion:
        values = parsed.values
        require(self, values, "pretrained_model_name_or_path", "instance_data_dir", "instance_prompt")
        instances: Table = {
            "images": values["instance_data_dir"],
            "caption": values["instance_prompt"],
            "caption_extension": NO_CAPTION_FILES,
        }
        classes = [(values["class_data_dir"], values["class_prompt"])]
        count = count_images(values["instance_data_dir"], "instance_data_dir")
        subsets = DreamboothSubsets(values, [instances], classes, count)

        # The original trains UNet and text encoder with the same learning rate.
        text_lr = values["learning_rate"] if values["train_text_encoder"] else 0.0
        return convert_dreambooth(self, parsed, subsets, text_lr)


class AdvancedScript(TrainDreamboothLora):
    """What the SDXL script and the advanced scripts have in common."""

    sampling: ClassVar[Table] = DRAWN
    """Sampler, steps and guidance of class images."""
    usual_layer: ClassVar[int] = 1
    """The hidden state of the text encoder that is used without clip_skip, counted from the last."""

    def convert(self, parsed: Parsed) -> Conversion:
        values = parsed.values
        require(self, values, "pretrained_model_name_or_path", "instance_prompt")
        source = find_images(values, "instance_data_dir", values["instance_prompt"])
        for instances in source.subsets:
            # Captions are read from a column of a data set only.
            if not values["caption_column"] or values["instance_data_dir"]:
                instances["caption_extension"] = NO_CAPTION_FILES
            instances["repeats"] = values["repeats"]
        classes = [(values["class_data_dir"], values["class_prompt"])]
        subsets = DreamboothSubsets(values, source.subsets, classes, source.count, self.sampling)
        text_lr = values["text_encoder_lr"] if values["train_text_encoder"] else 0.0
        conversion = convert_dreambooth(self, parsed, subsets, text_lr, source.download)

        # The original gives the number of skipped layers; for us, 1 is the last layer.
        if values.get("clip_skip"):
            conversion.config["text"] = {"clip_skip": values["clip_skip"] + self.usual_layer}
        self.adjust(values, conversion.config)
        return conversion

    def adjust(self, values: Values, config: Table) -> None:
        """Change the config in what one script has differently, for example add new tokens."""


class TrainDreamboothLoraSdxl(AdvancedScript):
    """`train_dreambooth_lora_sdxl.py`."""

    name = "train_dreambooth_lora_sdxl"
    options = merged(
        common(output_dir=OUTPUT, resolution=1024, adam_weight_decay=1e-4),
        DATASET,
        CLASSES,
        LORA,
        ADVANCED,
        XL,
        (CAPTION_COLUMN, replace(TEXT_WEIGHT_DECAY, default=1e-3)),
    )


class TrainDreamboothLoraSd15Advanced(AdvancedScript):
    """`train_dreambooth_lora_sd15_advanced.py`: pivotal tuning, which trains new tokens before the LoRA."""

    name = "train_dreambooth_lora_sd15_advanced"
    text_tensors: ClassVar[tuple[str, ...]] = ("clip_l",)
    """The tensors of the file of new tokens, one for each text encoder."""
    options = merged(
        common(output_dir=OUTPUT, adam_weight_decay=1e-4),
        DATASET,
        CLASSES,
        LORA,
        ADVANCED,
        PIVOTAL,
        (CAPTION_COLUMN,),
    )

    def adjust(self, values: Values, config: Table) -> None:
        """Each abstraction, such as `TOK`, is replaced by new tokens (`<s0><s1>`), trained for a part of the run."""
        phases: Table = {}
        # The text encoder, or the new tokens, may stop before the end of the run.
        if values["train_text_encoder"] and values["train_text_encoder_frac"] < 1:
            phases["text"] = [0, values["train_text_encoder_frac"]]
        if values["train_text_encoder_ti"]:
            if values["train_text_encoder"]:
                raise LorasmithError("give one of --train_text_encoder and --train_text_encoder_ti, not both")
            if values["train_text_encoder_ti_frac"] < 1:
                phases["words"] = [0, values["train_text_encoder_ti_frac"]]
            self.add_tokens(values, config)
        if phases:
            config["phases"] = phases

    def add_tokens(self, values: Values, config: Table) -> None:
        """`concepts`, `trigger`, and the transform that inserts the tokens into captions."""
        count = values["num_new_tokens_per_abstraction"]
        concepts: list[Table] = []
        replacements: dict[str, str] = {}
        for index, abstraction in enumerate(values["token_abstraction"].split(",")):
            first = index * count
            tokens = [f"<s{number}>" for number in range(first, first + count)]
            replacements[abstraction.strip()] = "".join(tokens)
            concepts.append(
                {
                    "words": tokens,
                    # Random vectors with the spread of the text encoder's own embeddings, to which they are scaled
                    # back after each step.
                    "init": "<rand-0.0137>",
                    "keep_std": True,
                    "lr": values["text_encoder_lr"],
                    "weight_decay": values["adam_weight_decay_text_encoder"] or values["adam_weight_decay"],
                }
            )
        config["concepts"] = concepts
        self.add_files_of_tokens(values, config, replacements)
        config["trigger"] = ["".join(replacements.values())]
        config["data"]["transforms"].insert(0, {"kind": "replace", "words": replacements})

    def add_files_of_tokens(self, values: Values, config: Table, replacements: Mapping[str, str]) -> None:
        """The original's file of all new tokens; a model card and previews with these in place of the abstractions."""
        (card,) = (hook for hook in config["hooks"] if hook["kind"] == "model_card")
        config["hooks"].insert(0, {"kind": "joined_words"})
        tokens = [token for concept in config["concepts"] for token in concept["words"]]
        embeddings_file = f"{Path(values['output_dir']).name}_emb.safetensors"
        card["usage"] += load_tokens(embeddings_file, tokens, self.text_tensors)

        card["prompt"] = with_tokens(card["prompt"], replacements)
        if "preview" in config:
            prompts = config["preview"]["prompts"]
            config["preview"]["prompts"] = [with_tokens(prompt, replacements) for prompt in prompts]


class TrainDreamboothLoraSdxlAdvanced(TrainDreamboothLoraSd15Advanced):
    """`train_dreambooth_lora_sdxl_advanced.py`: the same for SDXL, with the choice of the UNet's blocks."""

    name = "train_dreambooth_lora_sdxl_advanced"
    text_tensors = ("clip_l", "clip_g")
    usual_layer = 2
    options = merged(
        TrainDreamboothLoraSd15Advanced.options,
        common(output_dir=OUTPUT, resolution=1024, adam_weight_decay=1e-4),
        BLOCKS,
        (CAPTION_COLUMN,),
    )

    def adjust(self, values: Values, config: Table) -> None:
        super().adjust(values, config)
        blocks = [block.strip() for block in (values["lora_unet_blocks"] or "").split(",") if block.strip()]
        if values["use_blora"]:
            blocks = list(B_LORA_BLOCKS)
        if blocks:
            config["adapter"]["layers"] = [*attention_of(blocks), "te*.self_attn.*_proj"]


def with_tokens(prompt: str, replacements: Mapping[str, str]) -> str:
    """A prompt with new tokens in place of the abstractions, such as `TOK`."""
    for abstraction, tokens in replacements.items():
        prompt = prompt.replace(abstraction, tokens)
    return prompt


def attention_of(blocks: list[str]) -> list[str]:
    """Patterns of the UNet's attention layers in blocks such as `unet.up_blocks.0.attentions.0`."""
    patterns: list[str] = []
    for block in blocks:
        name = block.removeprefix("unet.")
        patterns += [f"unet.{name}.*attn?.{layer}" for layer in ("to_q", "to_k", "to_v", "to_out.0")]
    return patterns


def convert_dreambooth(
    script: Script, parsed: Parsed, subsets: DreamboothSubsets, text_lr: float, download: Download | None = None
) -> Conversion:
    """The config of a DreamBooth run. `download`: fetches the instance images before training."""
    values = parsed.values
    config = convert_general(values, subsets.epoch_images)
    config["data"] = {
        "subsets": subsets.tables,
        "resolution": values["resolution"],
        "batch_size": dreambooth_batch_size(values),
        "transforms": [{"kind": "flip"}] if values.get("random_flip") else [],
    }
    config["adapter"] = convert_lora(values)
    config["objective"] = convert_objective(values)
    config["optimizer"] = convert_optimizer(values, text_lr)
    config["export"] = DIFFUSERS_EXPORT

    def prepare(progress: Progress | None) -> None:
        if download is not None:
            download(progress)
        subsets.prepare(progress)

    copy_targets = diffusers_copy_targets(values["output_dir"])
    return make_conversion(script, parsed, config, LOAD_LORA, copy_targets=copy_targets, prepare=prepare)
