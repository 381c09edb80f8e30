"""`train_network`, the LoRA script: its command line, its config files, and their conversion."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from lorasmith.compat.kohya.blocks import Blocks, sd_blocks, sdxl_blocks
from lorasmith.compat.kohya.data import convert_data
from lorasmith.compat.kohya.general import (
    convert_general,
    convert_hooks,
    convert_text,
    first_batches_image,
    no_effect_notes,
    without_empty,
)
from lorasmith.compat.kohya.lr_schedules import convert_schedule
from lorasmith.compat.kohya.network import MODULES, convert_network
from lorasmith.compat.kohya.objectives import convert_objective
from lorasmith.compat.kohya.optimizers import convert_optimizer
from lorasmith.compat.kohya.options import OPTIONS, SDXL_OPTIONS
from lorasmith.compat.kohya.outputs import convert_export, output_folder
from lorasmith.compat.kohya.previews import convert_preview, convert_validation
from lorasmith.compat.kohya.reading import flatten_sections, read_file
from lorasmith.compat.kohya.resume import find_resume_path
from lorasmith.compat.kohya.uploads import SECRETS, secret_variables
from lorasmith.compat.options import split_arguments
from lorasmith.compat.script import Conversion, Parsed, Script
from lorasmith.core.config import to_toml
from lorasmith.core.errors import ConfigError, LorasmithError, Problem

Values = Mapping[str, Any]
"""Option name to value."""


class TrainNetwork(Script):
    """A LoRA of SD 1.x or 2.x."""

    name = "train_network"
    origin = "kohya-ss/sd-scripts"
    options = OPTIONS
    sdxl: ClassVar[bool] = False

    def parse(self, argv: Sequence[str]) -> Parsed:
        """The config file's values, overridden by the command line's."""
        arguments = split_arguments(self.options, argv)
        warnings: list[str] = []
        # With --output_config the original writes the config file and does not read it.
        write_config = arguments.pop("output_config", None)
        given: dict[str, Any] = {}
        if arguments.get("config_file") and not write_config:
            file = Path(arguments["config_file"]).expanduser()
            given, warnings = flatten_sections(read_file(file))
        given.pop("output_config", None)
        given |= arguments
        parsed = self.read(given, warnings, command_line=arguments)
        if write_config:
            target = Path(str(arguments.get("config_file") or ""))
            return replace(parsed, done_message=write_config_file(target, parsed))
        return parsed

    def read(self, given: Mapping[str, Any], warnings: list[str], command_line: Collection[str] = ()) -> Parsed:
        """Given values in their types; the old spelling of caption_extension is used if the new one is unset."""
        old_spelling = given.get("caption_extention")
        if old_spelling and not given.get("caption_extension"):
            given = {**given, "caption_extension": old_spelling}
        return super().read(given, warnings, command_line)

    def blocks(self) -> Blocks:
        """The numbers of the UNet's blocks."""
        return sd_blocks()

    def convert_text(self, values: Values, notes: list[str], problems: list[Problem]) -> dict[str, Any]:
        """The table `text`."""
        return convert_text(values, notes, problems, sdxl=self.sdxl)

    def convert_adapter(self, values: Values, notes: list[str], problems: list[Problem]) -> dict[str, Any]:
        """The table `adapter`."""
        return convert_network(values, MODULES, self.blocks(), notes, problems)

    def convert_objective(
        self, values: Values, data: Mapping[str, Any], notes: list[str], problems: list[Problem]
    ) -> dict[str, Any]:
        """The table `objective`. `data`: our table of that name."""
        return convert_objective(values, data.get("subsets", ()), problems)

    def convert_optimizer(self, values: Values, notes: list[str], problems: list[Problem]) -> dict[str, Any]:
        """The table `optimizer`."""
        return convert_optimizer(values, notes, problems)

    def convert_preview(self, values: Values, notes: list[str]) -> dict[str, Any]:
        """The table `preview`."""
        return convert_preview(values, notes)

    def convert(self, parsed: Parsed) -> Conversion:
        values = parsed.values
        notes = no_effect_notes(self, parsed)
        problems: list[Problem] = []
        resume = find_resume_path(values)
        secrets = secret_variables(values)
        if resume and not values["pretrained_model_name_or_path"]:
            # Without a base model, the run continues with the settings in its folder.
            return Conversion({}, notes, resume=resume, secrets=secrets)

        table = convert_general(values, notes, problems)
        table["data"] = convert_data(parsed, notes, problems)
        table["merge"] = convert_base_weights(values, notes)
        table["text"] = self.convert_text(values, notes, problems)
        table["adapter"] = self.convert_adapter(values, notes, problems)
        if values["network_weights"]:
            table["start"] = str(values["network_weights"])
        table["objective"] = self.convert_objective(values, table["data"], notes, problems)
        table["optimizer"] = self.convert_optimizer(values, notes, problems)
        table["lr_schedule"] = convert_schedule(values, notes, problems)
        table["preview"] = self.convert_preview(values, notes)
        table["validation"] = convert_validation(values, table["data"], notes)

        # Files are written to output_dir directly, as in the original, and not to the run's folder.
        table["export"] = {
            **convert_export(values),
            "folder": output_folder(values),
            "container": str(values["save_model_as"] or "safetensors").lower(),
        }
        table["hooks"] = convert_hooks(values, notes, problems)
        table |= convert_initial_step(values, resume is not None, notes)

        # All problems are reported together.
        if problems:
            raise ConfigError(problems, self.name)
        return Conversion(
            without_empty(table),
            notes,
            resume=resume,
            first_batches_image=first_batches_image(values),
            secrets=secrets,
        )


class SdxlTrainNetwork(TrainNetwork):
    """A LoRA of SDXL."""

    name = "sdxl_train_network"
    options = (*OPTIONS, *SDXL_OPTIONS)
    sdxl = True

    def blocks(self) -> Blocks:
        return sdxl_blocks()


def convert_base_weights(values: Mapping[str, Any], notes: list[str]) -> list[str]:
    """The files that are merged into the base, with their strengths. Files without a multiplier have strength 1."""
    files, strengths = values["base_weights"] or [], values["base_weights_multiplier"] or []
    if len(strengths) > len(files):
        notes.append(
            f"base_weights_multiplier: {len(strengths)} numbers for {len(files)} files; the surplus ones are ignored"
        )
    if not files:
        return []
    missing = [1.0] * len(files)
    merged = [f"{file}:{strength:g}" for file, strength in zip(files, [*strengths, *missing], strict=False)]
    notes.append(
        f"base_weights: the new LoRA is trained on the merged base; to sample with it, load {', '.join(merged)} as well"
    )
    return merged


def convert_initial_step(values: Mapping[str, Any], resumes: bool, notes: list[str]) -> dict[str, Any]:
    """`first_step` or `first_epoch` of a run that continues an earlier one from a file."""
    step, epoch = values["initial_step"], values["initial_epoch"]
    if not step and not epoch:
        return {}
    if resumes:
        notes.append("initial_step and initial_epoch are ignored: the state determines where the run continues")
        return {}
    return {"first_step": step} if step else {"first_epoch": epoch - 1}


def write_config_file(path: Path, parsed: Parsed) -> str:
    """Write the given values into a new config file, as --output_config does; returns a message.

    Secrets are left out. Raises LorasmithError if the file exists or no name is given.
    """
    target = path if path.suffix == ".toml" or not path.name else path.with_name(f"{path.name}.toml")
    if not path.name or target.exists():
        raise LorasmithError(f"--output_config requires --config_file with the name of a new file; found {target}")
    left_out = ("config_file", "output_config", *SECRETS)
    given = {name: parsed.values[name] for name in sorted(parsed.given) if name not in left_out}
    target.write_text(to_toml(given), encoding="utf-8")
    secrets = sorted(parsed.given & SECRETS.keys())
    if secrets:
        return f"written: {target}, without {' and '.join(secrets)}, which must not be in a file"
    return f"written: {target}"
