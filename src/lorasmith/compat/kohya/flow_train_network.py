"""`sd3_train_network` and `flux_train_network`: LoRAs of Stable Diffusion 3 and Flux."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from lorasmith.compat.kohya.blocks import Blocks
from lorasmith.compat.kohya.flow_networks import FLUX, FLUX_MODULES, SD3, SD3_MODULES, Transformer, text_rates
from lorasmith.compat.kohya.flow_objectives import flux_objective, sd3_objective
from lorasmith.compat.kohya.network import Converter, convert_network
from lorasmith.compat.kohya.optimizers import convert_optimizer
from lorasmith.compat.kohya.options.flow import FLUX_OPTIONS, SD3_OPTIONS
from lorasmith.compat.kohya.previews import convert_preview
from lorasmith.compat.kohya.train_network import TrainNetwork, Values
from lorasmith.compat.script import Conversion, Parsed
from lorasmith.core.errors import ConfigError, Problem

TOKEN = 16
"""The side in pixels of what these models take as one token."""


class FlowTrainNetwork(TrainNetwork):
    """What both scripts have in common."""

    model: ClassVar[Transformer]
    modules: ClassVar[Mapping[str, Converter[Transformer]]]
    parts: ClassVar[tuple[str, ...]]
    """Options that name a file with a text encoder or the VAE."""
    preview: ClassVar[dict[str, Any]]
    """Steps and guidance of the original's pictures, where a prompt does not give them."""

    def convert(self, parsed: Parsed) -> Conversion:
        conversion = super().convert(parsed)
        parts = [parsed.values[part] for part in self.parts if parsed.values[part]]
        if conversion.config and parts:
            conversion.config["base_parts"] = parts
        return conversion

    def blocks(self) -> Blocks:
        raise NotImplementedError("transformers have no numbered blocks of a UNet")

    def convert_text(self, values: Values, notes: list[str], problems: list[Problem]) -> dict[str, Any]:
        return {"t5_tokens": values["t5xxl_max_token_length"]} if values["t5xxl_max_token_length"] else {}

    def convert_adapter(self, values: Values, notes: list[str], problems: list[Problem]) -> dict[str, Any]:
        return convert_network(values, self.modules, self.model, notes, problems)

    def convert_objective(
        self, values: Values, data: Mapping[str, Any], notes: list[str], problems: list[Problem]
    ) -> dict[str, Any]:
        table = {"kind": "denoising", **self.convert_flow(values, notes, problems)}
        step = data.get("buckets", {}).get("step", TOKEN)
        if step % TOKEN:
            problems.append(Problem("bucket_reso_steps", f"found {step}", f"a multiple of {TOKEN}", "use 32 or 64"))
        # The original multiplies the loss by the mask and then averages over the whole image.
        if any(subset.get("masks") for subset in data.get("subsets", ())):
            table["mask_mean"] = "image"
        return table

    @abstractmethod
    def convert_flow(self, values: Values, notes: list[str], problems: list[Problem]) -> dict[str, Any]:
        """Timesteps, weightings, loss and noise."""

    def convert_optimizer(self, values: Values, notes: list[str], problems: list[Problem]) -> dict[str, Any]:
        # these scripts have one rate for each text encoder, so that they are converted here
        table = convert_optimizer({**values, "text_encoder_lr": None}, notes, problems)
        table["text_lr"] = text_rates(values, self.model).rate
        return table

    def convert_preview(self, values: Values, notes: list[str]) -> dict[str, Any]:
        table = convert_preview(values, notes)
        return table | self.preview if table else table


class Sd3TrainNetwork(FlowTrainNetwork):
    """A LoRA of Stable Diffusion 3 or 3.5."""

    name = "sd3_train_network"
    options = SD3_OPTIONS
    model = SD3
    modules = SD3_MODULES
    parts = ("clip_l", "clip_g", "t5xxl")
    preview: ClassVar[dict[str, Any]] = {"sampler": "euler", "steps": 30, "cfg": 7.5}

    def convert_flow(self, values: Values, notes: list[str], problems: list[Problem]) -> dict[str, Any]:
        return sd3_objective(values, problems)


class FluxTrainNetwork(FlowTrainNetwork):
    """A LoRA of Flux.1."""

    name = "flux_train_network"
    options = FLUX_OPTIONS
    model = FLUX
    modules = FLUX_MODULES
    parts = ("clip_l", "t5xxl", "ae")
    preview: ClassVar[dict[str, Any]] = {"sampler": "euler", "steps": 20, "cfg": 1.0}

    def convert_flow(self, values: Values, notes: list[str], problems: list[Problem]) -> dict[str, Any]:
        return flux_objective(values, notes, problems)

    def convert(self, parsed: Parsed) -> Conversion:
        if str(parsed.values["model_type"]).lower() == "chroma":
            problem = Problem("model_type", "chroma is another family of models", "flux", "Flux.1 is trained here")
            raise ConfigError([problem], self.name)
        conversion = super().convert(parsed)
        if conversion.config:
            conversion.config["guidance"] = parsed.values["guidance_scale"]
        return conversion
