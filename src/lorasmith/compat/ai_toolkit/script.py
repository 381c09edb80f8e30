"""`ai-toolkit FILE`: training of a LoRA from a YAML or JSON file of ai-toolkit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lorasmith.compat.ai_toolkit.data import convert_data
from lorasmith.compat.ai_toolkit.model_options import ALWAYS_USED, MODEL, NO_MODEL, TRAIN
from lorasmith.compat.ai_toolkit.networks import convert_network
from lorasmith.compat.ai_toolkit.objectives import convert_objective
from lorasmith.compat.ai_toolkit.optimizers import convert_optimizer, convert_schedule
from lorasmith.compat.ai_toolkit.options import DATASETS, LOGGING, NETWORK, PROCESS, SAMPLE, SAVE
from lorasmith.compat.ai_toolkit.outputs import convert_export, convert_hooks, convert_preview
from lorasmith.compat.ai_toolkit.reading import Job, find_file, read_job
from lorasmith.compat.options import Option
from lorasmith.compat.script import Conversion, Parsed, Script, read_option
from lorasmith.core.errors import ConfigError, LorasmithError, Problem, did_you_mean

KINDS = {"sd1": False, "sd2": False, "sdxl": False, "sd3": True, "flux": True}
"""Names of models to whether they are of flow matching."""
FLAGS = {"is_v3": "sd3", "is_flux": "flux", "is_xl": "sdxl", "is_v2": "sd2"}
PRECISIONS = {"fp32": "fp32", "float32": "fp32", "float": "fp32", "bf16": "bf16", "bfloat16": "bf16"} | dict.fromkeys(
    ("fp16", "float16", "half"), "fp16"
)


class AiToolkit(Script):
    """ai-toolkit's `run.py FILE`, for LoRAs of images."""

    name = "ai-toolkit"
    origin = "ai-toolkit"
    options: ClassVar[tuple[Option, ...]] = (*PROCESS, *MODEL, *NETWORK, *DATASETS, *TRAIN, *SAMPLE, *SAVE, *LOGGING)

    def parse(self, argv: Sequence[str]) -> Parsed:
        """The file's values. `-n NAME` replaces the name in it; `-r` and `-l FILE` are accepted."""
        files: list[str] = []
        name: str | None = None
        arguments = list(argv)
        while arguments:
            argument = arguments.pop(0)
            if argument in ("-n", "--name") and arguments:
                name = arguments.pop(0)
            elif argument in ("-l", "--log"):
                del arguments[:1]
            elif not argument.startswith("-"):
                files.append(argument)
            elif argument not in ("-r", "--recover"):
                raise LorasmithError(f"ai-toolkit: unknown option {argument}; the options are -n NAME, -r and -l FILE")
        if len(files) != 1:
            raise LorasmithError("ai-toolkit takes one file: lorasmith as ai-toolkit my_config.yaml")
        options = {option.name for option in self.options}
        return self.read_job(read_job(find_file(files[0]), name, options), files[0])

    def read_job(self, job: Job, source: str) -> Parsed:
        """The values of a job in their types, with defaults. Raises ConfigError with all problems."""
        problems: list[Problem] = []
        warnings: list[str] = []
        given: set[str] = set()
        shared = [option for option in self.options if option not in DATASETS]
        values = read_keys(shared, job.keys, "", given, warnings, problems)
        values["datasets"] = [
            read_keys(
                DATASETS, {f"datasets.{key}": value for key, value in table.items()}, f"{i}", given, warnings, problems
            )
            for i, table in enumerate(job.datasets)
        ]
        if problems:
            raise ConfigError(problems, source)
        return Parsed(values, frozenset(given), warnings)

    def convert(self, parsed: Parsed) -> Conversion:
        values = parsed.values
        problems: list[Problem] = []
        notes = state_notes(self.options, parsed)
        kind = model_kind(values, problems)
        flow = KINDS.get(kind, False)
        if values["train.noise_scheduler"] == "flowmatch" and not flow:
            found = "flowmatch, with a model that is not of flow matching"
            problems.append(Problem("train.noise_scheduler", found, "ddpm", "set model.arch if it is sd3 or flux"))
        for key in ("model.name_or_path", "training_folder"):
            if not values[key]:
                problems.append(Problem(key, "missing", remedy="add it"))
        check_text_encoders(values, problems)
        config = convert_general(values, notes, problems)
        config["data"] = convert_data(values, values["datasets"], problems)
        config["adapter"] = convert_network(values, flow=flow, notes=notes, problems=problems)
        config["objective"] = convert_objective(values, flow=flow, notes=notes, problems=problems)
        config["optimizer"] = convert_optimizer(values, notes, problems)
        config["lr_schedule"] = convert_schedule(values, config["steps"], problems)
        config["export"] = convert_export(values, flow=flow, problems=problems)
        config["hooks"] = convert_hooks(values, problems)
        preview = convert_preview(values, kind=kind, flow=flow, problems=problems)
        if preview:
            config["preview"] = preview
        if kind == "flux":
            config["guidance"] = values["train.cfg_scale"]
        if problems:
            raise ConfigError(problems, self.name)
        return Conversion({key: value for key, value in config.items() if value not in (None, [], {})}, notes)


def read_keys(
    options: Sequence[Option],
    table: Mapping[str, Any],
    place: str,
    given: set[str],
    warnings: list[str],
    problems: list[Problem],
) -> dict[str, Any]:
    """Values of `options` in their types, with defaults. Unknown keys are warnings, as the original ignores them.
    `place`: the number of the data set, for messages."""
    known = {option.name: option for option in options}
    values = {option.name: option.default for option in options}
    for name, raw in table.items():
        if name not in known:
            where = name.replace("datasets.", f"datasets.{place}.") if place else name
            warnings.append(f"unknown key {where} is ignored. {did_you_mean(name, known)}".strip())
            continue
        value = read_option(known[name], raw, problems)
        if value is not None:
            values[name] = value
            given.add(name)
    return values


def state_notes(options: Sequence[Option], parsed: Parsed) -> list[str]:
    """A note for each given key that has no effect here or does something better, unless it has its default."""
    notes: list[str] = []
    for option in options:
        # keys of data sets have a value in each of them
        tables = parsed.values["datasets"] if option in DATASETS else [parsed.values]
        if option.name not in parsed.given or all(option.is_unset(table[option.name]) for table in tables):
            continue
        if option.state == "no_effect":
            notes.append(f"{option.name} has no effect here: {option.note}")
        elif option.state == "improved":
            notes.append(f"{option.name}: {option.note}")
    return notes


def model_kind(values: Mapping[str, Any], problems: list[Problem]) -> str:
    """The family that the file names: `model.arch` (a tag after a colon is not part of it), or a flag, or SD 1.x."""
    arch = str(values["model.arch"] or "").partition(":")[0]
    if arch and arch not in KINDS:
        problems.append(Problem("model.arch", f'"{arch}": {NO_MODEL}', ", ".join(KINDS)))
    flags = [kind for flag, kind in FLAGS.items() if values[f"model.{flag}"]]
    return arch or (flags[0] if flags else "sd1")


def convert_general(values: Mapping[str, Any], notes: list[str], problems: list[Problem]) -> dict[str, Any]:
    """Base, output, length, precision and average."""
    each = values["train.gradient_accumulation_steps"]
    if each < 1:
        problems.append(Problem("train.gradient_accumulation_steps", f"found {each}", "1 or more"))
        each = 1
    if each > 1:
        notes.append(
            "train.gradient_accumulation_steps: there, each batch counts as a step, so `steps` is divided by it"
        )
    dtype = str(values["train.dtype"]).lower()
    if dtype not in PRECISIONS:
        problems.append(Problem("train.dtype", f'found "{dtype}"', "fp32, bf16, fp16"))
    merged = merged_files(values, problems)
    if values["model.assistant_lora_path"]:
        notes.append("model.assistant_lora_path: it is part of the base while training; draw without it")
    return {
        "base": values["model.name_or_path"],
        "vae": values["model.vae_path"],
        "merge": merged,
        "output": str(Path(str(values["training_folder"] or ".")) / values["name"]),
        "name": values["name"],
        "trigger": values["trigger_word"],
        "seed": values["training_seed"] or 0,
        "steps": max(1, values["train.steps"] // each),
        "first_step": values["train.start_step"],
        "accumulation": each * values["train.gradient_accumulation"],
        "precision": PRECISIONS.get(dtype, "auto"),
        "gradient_checkpointing": values["train.gradient_checkpointing"],
        "prediction": "v_prediction" if values["model.is_v_pred"] else None,
        "ema": values["train.ema_config.ema_decay"] if values["train.ema_config.use_ema"] else None,
        "start": values["network.pretrained_lora_path"],
    }


def check_text_encoders(values: Mapping[str, Any], problems: list[Problem]) -> None:
    """A problem for each text encoder of SDXL that the file switches off."""
    for name in ALWAYS_USED:
        if not values[f"model.{name}"]:
            problems.append(Problem(f"model.{name}", "both text encoders of SDXL are always used", remedy="remove it"))


def merged_files(values: Mapping[str, Any], problems: list[Problem]) -> list[str]:
    """The LoRA files that are part of the base, which must be on this machine."""
    files = {key: str(values[key]) for key in ("model.lora_path", "model.assistant_lora_path") if values[key]}
    for key, file in files.items():
        if not Path(file).is_file():
            found = f"{file}: no such file"
            problems.append(Problem(key, found, remedy="download it, and name the .safetensors file"))
    return list(files.values())
