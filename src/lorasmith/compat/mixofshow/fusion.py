"""`gradient_fusion --concept_cfg FILE --save_path DIR --pretrained_models BASE`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorasmith.compat.mixofshow.options import FUSION
from lorasmith.compat.mixofshow.reading import arguments
from lorasmith.compat.options import split_arguments
from lorasmith.compat.script import Action, Parsed
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.families.resolve import find
from lorasmith.files.lora import Output
from lorasmith.fusion import FuseSettings, fuse_files, read_list


class GradientFusion(Action):
    """Mix-of-Show's fusion of concepts, in closed form; the result is a LoRA with its words, not a whole model."""

    name = "gradient_fusion"
    origin = "Mix-of-Show"
    options = FUSION

    def parse(self, argv: Sequence[str]) -> Parsed:
        given, warnings = split_arguments(self.options, arguments(argv))
        return self.read(given, warnings)

    def act(self, parsed: Parsed, progress: Progress | None) -> dict[str, Any]:
        v = parsed.values
        missing = [name for name in ("concept_cfg", "save_path", "pretrained_models") if v[name] is None]
        if missing:
            raise LorasmithError("gradient_fusion needs " + ", ".join(f"--{name}" for name in missing))
        base = str(v["pretrained_models"])
        uses = read_list(Path(str(v["concept_cfg"])))
        side = find(base).native_size
        folder = Path(str(v["save_path"]))
        folder.mkdir(parents=True, exist_ok=True)
        output = Output(folder / f"combined_model_{v['suffix']}.safetensors", overwrite=True)
        # the original's prompts; it draws one picture of the first
        settings = FuseSettings(prompts=("photo of a {}", "{}"), size=side)
        return fuse_files(base, uses, output, settings, progress=progress).plain()
