"""`test_edlora -opt FILE --lora-path F --save-dir D`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasmith.compat.mixofshow.edlora import NEGATIVE_PROMPT, list_prompts, list_strengths
from lorasmith.compat.mixofshow.options import TEST, TRAIN
from lorasmith.compat.mixofshow.reading import normalize_arguments, read_yaml
from lorasmith.compat.mixofshow.training_data import preview_size
from lorasmith.compat.options import split_arguments
from lorasmith.compat.script import Action, Parsed
from lorasmith.core.errors import ConfigError, LorasmithError, Problem
from lorasmith.core.progress import Progress

if TYPE_CHECKING:
    from lorasmith.sampling.settings import SampleSettings

REQUIRED = ("models.pretrained_path", "datasets.val_vis.prompts")


class TestEdlora(Action):
    """Mix-of-Show's images of a trained concept, for each prompt and strength."""

    name = "test_edlora"
    origin = "Mix-of-Show"
    options = TEST
    # pytest collects classes whose name begins with Test.
    __test__ = False

    def parse(self, argv: Sequence[str]) -> Parsed:
        given = split_arguments(self.options, normalize_arguments(argv))
        if "opt" not in given:
            raise LorasmithError("test_edlora requires its YAML file: -opt FILE")
        table = read_yaml(Path(str(given["opt"])), TRAIN)

        # One of the files that come with Mix-of-Show has alpha_list in this place.
        if "models.alpha_list" in table:
            table.setdefault("val.alpha_list", table.pop("models.alpha_list"))
        # A training's file has all that a test needs; its other options are not meant for this script.
        for_training = {option.name for option in TRAIN} - {option.name for option in TEST}
        table = {name: value for name, value in table.items() if name not in for_training}
        return self.read(table | given, [], command_line=given)

    def act(self, parsed: Parsed, progress: Progress | None) -> dict[str, Any]:
        from lorasmith.sampling.loras import LoraUse
        from lorasmith.sampling.run import sample_to_folder

        values = parsed.values
        problems = [Problem(key, "missing", remedy="add it") for key in REQUIRED if values[key] is None]
        lora_path = values["lora_path"] or values["path.lora_path"]
        if lora_path is None:
            problems.append(Problem("path.lora_path", "missing", remedy="add it, or give --lora-path FILE"))
        if problems or lora_path is None:
            raise ConfigError(problems, str(values["opt"]))

        # The same prompts as in the previews of training.
        prompts = list_prompts(values)
        folder = Path(values["save_dir"] or f"results/{values['name'] or 'test'}")
        loras = [LoraUse(Path(lora_path))]
        settings = sample_settings(values)
        base = values["models.pretrained_path"]
        result = sample_to_folder(base, prompts, folder, loras=loras, settings=settings, progress=progress)
        return {"pictures": str(result.folder), "grid": str(result.grid), "count": len(result.files)}


def sample_settings(values: Mapping[str, Any]) -> SampleSettings:
    """How the images are drawn; the sampler and the first seed are the original's."""
    from lorasmith.sampling.settings import SampleSettings

    width, height = preview_size(values) or (None, None)
    return SampleSettings(
        negative=NEGATIVE_PROMPT,
        seed=1,
        count=values["datasets.val_vis.num_samples_per_prompt"],
        steps=values["val.sample.num_inference_steps"],
        cfg=values["val.sample.guidance_scale"],
        sampler="dpm++_2m",
        width=width,
        height=height,
        strengths=tuple(list_strengths(values)),
    )
