"""The training scripts of other programs: which files are needed, and the few lines that stop them on the tiny base or
with current libraries.

The clones are made by the user and never changed; what is needed is copied and patched:

    git clone https://github.com/huggingface/diffusers
    git clone https://github.com/huggingface/peft
    git clone https://github.com/TencentARC/Mix-of-Show
    git clone https://github.com/kohya-ss/sd-scripts
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Patch:
    """Text that is replaced in a copied file, everywhere where it occurs."""

    file: str
    old: str
    new: str
    why: str


SOURCES: dict[str, tuple[str, ...]] = {
    "diffusers": (
        "examples/dreambooth/train_dreambooth_lora.py",
        "examples/text_to_image/train_text_to_image_lora.py",
    ),
    "peft": ("examples/lora_dreambooth/train_dreambooth.py",),
    "Mix-of-Show": ("train_edlora.py", "test_edlora.py", "mixofshow"),
    "sd-scripts": ("train_network.py", "library", "networks/__init__.py", "networks/lora.py"),
}
"""What is copied of each clone; files that a version does not have are left out."""

SCALE = "the scale of latents is a constant there; the tiny base has another one"
PATCHES = (
    Patch(
        "peft/examples/lora_dreambooth/train_dreambooth.py", "latents * 0.18215",
        "latents * vae.config.scaling_factor", SCALE,
    ),
    Patch(
        "peft/examples/lora_dreambooth/train_dreambooth.py",
        'subfolder="text_encoder", revision=args.revision\n    )\n    vae',
        'subfolder="text_encoder", revision=args.revision\n    ).float()\n    vae',
        "transformers 5 loads in the precision of the file",
    ),
    Patch(
        "Mix-of-Show/mixofshow/pipelines/trainer_edlora.py", "latents * 0.18215",
        "latents * self.vae.config.scaling_factor", SCALE,
    ),
    Patch(
        "Mix-of-Show/mixofshow/pipelines/trainer_edlora.py", "subfolder='text_encoder')",
        "subfolder='text_encoder').float()", "transformers 5 loads in the precision of the file",
    ),
    Patch(
        "Mix-of-Show/mixofshow/pipelines/trainer_edlora.py", "{'64': [], '32': [], '16': [], '8': []}",
        "{'16': [], '8': [], '4': [], '2': []}", "the sizes of attention maps belong to 512 pixels",
    ),
    Patch(
        "Mix-of-Show/mixofshow/pipelines/trainer_edlora.py", "text = text[0]  #", "text = text[0].tolist()  #",
        "on a GPU, each of 20,000 comparisons of token numbers a step waits for the GPU",
    ),
    Patch(
        "Mix-of-Show/mixofshow/data/pil_transform.py", "random.randint(0, 512 -", "random.randint(0, self.size -",
        "the transform has 512 pixels as a constant",
    ),
    Patch(
        "sd-scripts/library/original_unet.py", "(320, 640, 1280, 1280)", "(32, 64, 128, 128)",
        "the widths of Stable Diffusion 1 are constants",
    ),
    Patch("sd-scripts/library/original_unet.py", "NORM_GROUPS: int = 32", "NORM_GROUPS: int = 8", "as above"),
    Patch(
        "sd-scripts/library/original_unet.py", "TRANSFORMER_NORM_NUM_GROUPS = 32", "TRANSFORMER_NORM_NUM_GROUPS = 8",
        "as above",
    ),
    Patch("sd-scripts/train_network.py", "self.vae_scale_factor = 0.18215", "self.vae_scale_factor = {scale}", SCALE),
    Patch(
        "sd-scripts/train_network.py", "text_encoder.text_model.embeddings",
        "getattr(text_encoder, 'text_model', text_encoder).embeddings", "transformers 5 dropped a level of modules",
    ),
    Patch(
        "sd-scripts/library/lpw_stable_diffusion.py", "CLIPFeatureExtractor", "CLIPImageProcessor",
        "transformers 5 renamed it",
    ),
    Patch(
        "sd-scripts/library/sdxl_lpw_stable_diffusion.py", "CLIPFeatureExtractor", "CLIPImageProcessor",
        "transformers 5 renamed it",
    ),
    Patch(
        "sd-scripts/library/strategy_sd.py", '"openai/clip-vit-large-patch14"', '"{tokenizer}"',
        "the tokenizer is a constant",
    ),
)  # fmt: skip

STAND_INS = {
    "omegaconf.py": (
        "import json\n\n\nclass OmegaConf:\n"
        "    @staticmethod\n    def load(path):\n        return json.load(open(path))\n\n"
        "    @staticmethod\n    def to_container(table, resolve=True):\n        return table\n"
    ),
    "IPython/__init__.py": "",
    "IPython/display.py": "def display(*things):\n    raise NotImplementedError\n",
}
"""Modules that Mix-of-Show imports, with the only functions that its training calls."""


def prepare(clones: Path, folder: Path, values: dict[str, str]) -> Path:
    """Copy and patch the scripts of `clones` into `folder`, with `values` for the braces in patches.

    Raises SystemExit if a patch does not fit, which means that the clone is of another version.
    """
    if folder.exists():
        return folder
    building = folder.with_name(f"{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    for clone, wanted in SOURCES.items():
        for name in wanted:
            source, copy = clones / clone / name, building / clone / name
            if not source.exists():
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, copy)
            else:
                shutil.copyfile(source, copy)
    for patch in PATCHES:
        _apply(patch, building, values)
    for name, text in STAND_INS.items():
        file = building / "stand-ins" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    building.rename(folder)
    return folder


def _apply(patch: Patch, folder: Path, values: dict[str, str]) -> None:
    file = folder / patch.file
    if not (folder / patch.file.split("/")[0]).exists():
        return
    text = file.read_text("utf-8")
    if patch.old not in text:
        raise SystemExit(f"{patch.file}: '{patch.old}' is not in it; this version needs other patches")
    new = patch.new
    for name, value in values.items():
        new = new.replace(f"{{{name}}}", value)
    file.write_text(text.replace(patch.old, new), "utf-8")
