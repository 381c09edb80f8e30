"""The DreamBooth scripts: a few pictures of one thing, with one prompt or captions, and pictures of its class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from lorasmith.compat.diffusers.classes import drawing
from lorasmith.compat.diffusers.datasets import images_of
from lorasmith.compat.diffusers.options import (
    ADVANCED,
    CLASSES,
    DATASET,
    DREAMBOOTH,
    LORA,
    PIVOTAL,
    XL,
    common,
    merged,
)
from lorasmith.compat.diffusers.shared import (
    Table,
    conversion,
    count_images,
    exports,
    general,
    lora,
    needed,
    objective,
    optimizer,
)
from lorasmith.compat.options import Option
from lorasmith.compat.script import Conversion, Parsed, Script
from lorasmith.core.errors import LorasmithError
from lorasmith.sampling.settings import SampleSettings

NO_CAPTIONS = (".no-captions",)
OUTPUT = "lora-dreambooth-model"


Prompts = list[tuple[str | None, str | None]]
"""Class folder and class prompt of each concept."""


class Subsets:
    """The instance pictures and, with prior preservation, those of the class; `prepare` makes what is not there."""

    def __init__(self, v: Table, instances: list[Table], prompts: Prompts) -> None:
        """`instances`: our subsets; `prompts`: class folder and class prompt of each."""
        self.tables = list(instances)
        self.instances = sum(count_images(s["images"], "instance_data_dir") * s.get("repeats", 1) for s in instances)
        self.longest = self.instances
        self.prepare: Callable[[Any], None] | None = None
        if v["with_prior_preservation"]:
            self._classes(v, prompts)

    def _classes(self, v: Table, prompts: Prompts) -> None:
        """Both kinds are seen equally often: theirs has as many of each in a batch."""
        jobs = []
        for folder, prompt in prompts:
            if not folder or not prompt:
                raise LorasmithError("--with_prior_preservation needs --class_data_dir and --class_prompt")
            settings = SampleSettings(
                seed=v["seed"] or 0,
                batch_size=v["sample_batch_size"],
                steps=25,
                cfg=7.5,
                sampler="dpm++_2m",
                width=v["resolution"],
                height=v["resolution"],
            )
            base = v["pretrained_model_name_or_path"]
            jobs.append(drawing(base, prompt, Path(folder), v["num_class_images"], settings))
            own = {"images": folder, "caption": prompt, "caption_extension": NO_CAPTIONS}
            self.tables.append(own | {"loss_weight": v["prior_loss_weight"]})
        classes = v["num_class_images"] * len(prompts)
        more = max(1, round(classes / max(1, self.instances)))
        for table in self.tables[: -len(prompts)]:
            table["repeats"] = table.get("repeats", 1) * more
        self.longest = max(self.instances, classes)

        def prepare(progress: Any) -> None:
            for job in jobs:
                job(progress)

        self.prepare = prepare


class TrainDreamboothLora(Script):
    """`train_dreambooth_lora.py`."""

    name = "train_dreambooth_lora"
    origin = "diffusers"
    options: ClassVar[tuple[Option, ...]] = merged(
        common(output_dir=OUTPUT, learning_rate=5e-4), LORA, CLASSES, DREAMBOOTH
    )

    def convert(self, parsed: Parsed) -> Conversion:
        v = parsed.values
        needed(self, v, "pretrained_model_name_or_path", "instance_data_dir", "instance_prompt")
        own = {"images": v["instance_data_dir"], "caption": v["instance_prompt"], "caption_extension": NO_CAPTIONS}
        subsets = Subsets(v, [own], [(v["class_data_dir"], v["class_prompt"])])
        text_lr = self.text_lr(v) if v["train_text_encoder"] else 0.0
        return finished(self, parsed, subsets, {"optimizer": optimizer(v, text_lr)})

    def text_lr(self, v: Table) -> float:
        """They train both with one learning rate."""
        return v["learning_rate"]


class AdvancedScript(TrainDreamboothLora):
    """What the SDXL and the advanced scripts have in common."""

    def convert(self, parsed: Parsed) -> Conversion:
        v = parsed.values
        needed(self, v, "pretrained_model_name_or_path", "instance_prompt")
        own, download = images_of(v, "instance_data_dir", v["instance_prompt"])
        if not v["caption_column"] or v["instance_data_dir"]:
            own["caption_extension"] = NO_CAPTIONS
        own["repeats"] = v["repeats"]
        subsets = Subsets(v, [own], [(v["class_data_dir"], v["class_prompt"])])
        text_lr = v["text_encoder_lr"] if v["train_text_encoder"] else 0.0
        config: Table = {"optimizer": optimizer(v, text_lr)}
        if v.get("clip_skip"):
            config["text"] = {"clip_skip": v["clip_skip"] + 1}
        config |= self.pivotal(v)
        return finished(self, parsed, subsets, config, download)

    def pivotal(self, v: Table) -> Table:
        """New words, for scripts that have them."""
        return {}


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
        (Option("caption_column", "text", to="data"),),
    )


class TrainDreamboothLoraSd15Advanced(AdvancedScript):
    """`train_dreambooth_lora_sd15_advanced.py`: pivotal tuning."""

    name = "train_dreambooth_lora_sd15_advanced"
    options = merged(
        common(output_dir=OUTPUT, adam_weight_decay=1e-4),
        DATASET,
        CLASSES,
        LORA,
        ADVANCED,
        PIVOTAL,
        (Option("caption_column", "text", to="data"),),
    )

    def pivotal(self, v: Table) -> Table:
        """`TOK` becomes `<s0><s1>`, which are learned for the first part of the run."""
        found: Table = {"phases": {}}
        if v["train_text_encoder"] and v["train_text_encoder_frac"] < 1:
            found["phases"]["text"] = [0, v["train_text_encoder_frac"]]
        if not v["train_text_encoder_ti"]:
            return found if found["phases"] else {}
        if v["train_text_encoder"]:
            raise LorasmithError("give one of --train_text_encoder and --train_text_encoder_ti, not both")
        count, concepts, words = v["num_new_tokens_per_abstraction"], [], {}
        for i, abstraction in enumerate(a.strip() for a in v["token_abstraction"].split(",")):
            new = [f"<s{i * count + k}>" for k in range(count)]
            words[abstraction] = "".join(new)
            lr, decay = v["text_encoder_lr"], v["adam_weight_decay_text_encoder"] or 0.0
            concept = {"words": new, "init": "<rand-0.0137>", "keep_std": True, "lr": lr, "weight_decay": decay}
            concepts.append(concept)
        found |= {"concepts": concepts, "trigger": ["".join(words.values())]}
        found["data"] = {"transforms": [{"kind": "replace", "words": words}]}
        if v["train_text_encoder_ti_frac"] < 1:
            found["phases"]["words"] = [0, v["train_text_encoder_ti_frac"]]
        return {k: value for k, value in found.items() if value}


def finished(
    script: Script, parsed: Parsed, subsets: Subsets, config: Table, download: Callable[[Any], None] | None = None
) -> Conversion:
    """The whole config of a DreamBooth run."""
    v = parsed.values
    out = exports(v["output_dir"])
    transforms = [*config.get("data", {}).get("transforms", []), *([{"kind": "flip"}] if v.get("random_flip") else [])]
    data = {
        "subsets": subsets.tables,
        "resolution": v["resolution"],
        "batch_size": v["train_batch_size"] * (2 if v["with_prior_preservation"] else 1),
        "transforms": transforms,
    }
    whole = general(v, subsets.longest) | {"adapter": lora(v), "objective": objective(v)} | out["config"] | config
    whole["data"] = data

    def prepare(progress: Any) -> None:
        for job in (download, subsets.prepare):
            if job is not None:
                job(progress)

    return conversion(script, parsed, whole, copy_targets=out["copies"], prepare=prepare)
