"""`gradient_fusion --concept_cfg FILE --save_path DIR --pretrained_models BASE`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorasmith.compat.mixofshow.options import FUSION
from lorasmith.compat.mixofshow.reading import normalize_arguments
from lorasmith.compat.options import split_arguments
from lorasmith.compat.script import Action, Parsed
from lorasmith.core.errors import LorasmithError
from lorasmith.core.progress import Progress
from lorasmith.core.store import write_text
from lorasmith.core.text_files import parse_json, read_text

SIDECAR_SUFFIX = ".base.json"
"""Of the file beside a fused LoRA that names its base. The LoRA itself names no paths, since it may be published."""
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
        from lorasmith.families.resolve import find
        from lorasmith.files.lora import OutputFile
        from lorasmith.fusion import FuseSettings, fuse_files, read_list

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
        report = fuse_files(base, concepts, output, settings, progress=progress).plain()
        write_base(output.path, base)
        return report


def write_base(lora: Path, base: str) -> None:
    """Name the base beside a fused LoRA, so that sampling by regions finds it from any folder."""
    path = Path(base).expanduser()
    name = str(path.resolve()) if path.exists() else base
    write_text(lora.with_suffix(SIDECAR_SUFFIX), json.dumps({"base": name}) + "\n")


def read_base(lora: Path) -> str | None:
    """The base that is named beside a fused LoRA; None if there is none, or if it is not there any more."""
    from lorasmith.families.resolve import find

    sidecar = lora.with_suffix(SIDECAR_SUFFIX)
    if not sidecar.is_file():
        return None
    content = parse_json(read_text(sidecar), sidecar)
    name = content.get("base") if isinstance(content, dict) else None
    try:
        find(str(name))
    except LorasmithError:
        return None
    return str(name)
