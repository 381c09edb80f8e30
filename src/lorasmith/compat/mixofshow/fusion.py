"""`gradient_fusion --concept_cfg FILE --save_path DIR --pretrained_models BASE`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorasmith.compat.mixofshow.options import FUSION
from lorasmith.compat.mixofshow.reading import normalize_arguments
from lorasmith.compat.options import split_arguments
from lorasmith.compat.script import Action, Parsed
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.families.resolve import find
from lorasmith.files.lora import OutputFile
from lorasmith.fusion import FuseSettings, fuse_files, read_list

REQUIRED = ("concept_cfg", "save_path", "pretrained_models")


class GradientFusion(Action):
    """Mix-of-Show's fusion of concepts, in closed form. The result is a LoRA with its new tokens, not a whole model."""

    name = "gradient_fusion"
    origin = "Mix-of-Show"
    options = FUSION

    def parse(self, argv: Sequence[str]) -> Parsed:
        given = split_arguments(self.options, normalize_arguments(argv))
        return self.read(given, [], command_line=given)

    def act(self, parsed: Parsed, progress: Progress | None) -> dict[str, Any]:
        values = parsed.values
        missing = [name for name in REQUIRED if values[name] is None]
        if missing:
            raise LorasmithError("gradient_fusion requires " + ", ".join(f"--{name}" for name in missing))
        base = str(values["pretrained_models"])
        concepts = read_list(Path(str(values["concept_cfg"])))
        folder = Path(str(values["save_path"]))
        folder.mkdir(parents=True, exist_ok=True)
        output = OutputFile(folder / f"combined_model_{values['suffix']}.safetensors", overwrite=True)

        # The prompts and the size are the original's. It draws one image of the first prompt.
        settings = FuseSettings(prompts=("photo of a {}", "{}"), size=find(base).native_size)
        return fuse_files(base, concepts, output, settings, progress=progress).plain()
