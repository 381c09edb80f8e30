"""`test_edlora -opt FILE --lora-path F --save-dir D`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorasmith.compat.mixofshow.edlora import NEGATIVE, prompts_of
from lorasmith.compat.mixofshow.options import TEST
from lorasmith.compat.mixofshow.reading import arguments, pairs, read_yaml
from lorasmith.compat.options import split_arguments
from lorasmith.compat.script import Action, Parsed
from lorasmith.core.errors import ConfigError, LorasmithError, Problem
from lorasmith.core.progress import Progress
from lorasmith.sampling.loras import LoraUse
from lorasmith.sampling.run import sample_to_folder
from lorasmith.sampling.settings import SampleSettings


class TestEdlora(Action):
    """Mix-of-Show's pictures of a trained concept, for each prompt and strength."""

    name = "test_edlora"
    origin = "Mix-of-Show"
    options = TEST
    __test__ = False  # no test of ours, whatever its name

    def parse(self, argv: Sequence[str]) -> Parsed:
        given, warnings = split_arguments(self.options, arguments(argv))
        if "opt" not in given:
            raise LorasmithError("test_edlora needs its YAML file: -opt FILE")
        table = read_yaml(Path(str(given["opt"])))
        if "models.alpha_list" in table:  # a shipped file has it there
            table.setdefault("val.alpha_list", table.pop("models.alpha_list"))
        return self.read(table | given, warnings)

    def act(self, parsed: Parsed, progress: Progress | None) -> dict[str, Any]:
        v = parsed.values
        needed = ("models.pretrained_path", "datasets.val_vis.prompts")
        problems = [Problem(k, "missing", remedy="add it") for k in needed if v[k] is None]
        path = v["lora_path"] or v["path.lora_path"]
        if path is None:
            problems.append(Problem("path.lora_path", "missing", remedy="add it, or give --lora-path FILE"))
        if problems or path is None:
            raise ConfigError(problems, str(v["opt"]))
        sample, latent = v["val.sample"] or {}, v["datasets.val_vis.latent_size"]
        settings = SampleSettings(
            negative=NEGATIVE,
            seed=1,
            count=v["datasets.val_vis.num_samples_per_prompt"],
            steps=sample.get("num_inference_steps", 50),
            cfg=sample.get("guidance_scale", 7.5),
            sampler="dpm++_2m",
            width=latent[2] * 8 if latent else None,
            height=latent[1] * 8 if latent else None,
            strengths=tuple(float(a) for a in v["val.alpha_list"] or (1.0,)),
        )
        folder = Path(v["save_dir"] or f"results/{v['name'] or 'test'}")
        lines = prompts_of(v["datasets.val_vis.prompts"], pairs(v["datasets.val_vis.replace_mapping"]))
        base = v["models.pretrained_path"]
        result = sample_to_folder(
            base, lines, folder, loras=[LoraUse(Path(path))], settings=settings, progress=progress
        )
        return {"pictures": str(result.folder), "grid": str(result.grid), "count": len(result.files)}
