"""What the fuzzed inputs are made of: a real run with its files, LoRA files of every kind and format, pictures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from lorasmith.core.config import to_toml

ADAPTERS = ("lora", "loha", "lokr", "dora", "oft", "boft", "ia3", "full", "glora", "dylora")
FORMATS = ("peft", "diff", "portable", "lycoris")


@dataclass
class Material:
    """`images`: a folder of three pictures with captions; `run`: that of a run of two steps with new tokens."""

    folder: Path
    images: Path
    run: Path
    state: Path
    loras: list[Path] = field(default_factory=list)
    pickles: list[Path] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """A small config for these images, as a table."""
        return settings(self.images, "out")


def settings(images: Path, output: str) -> dict[str, Any]:
    return {
        "base": "tiny-sd",
        "output": output,
        "name": "garp",
        "trigger": ["garp"],
        "steps": 2,
        "threads": 1,
        "data": {"images": str(images), "resolution": 64, "batch_size": 2},
        "adapter": {"kind": "lora", "rank": 2, "layers": "attention"},
        "optimizer": {"kind": "adamw", "lr": 1e-3},
        "export": {"every_steps": 1},
        "checkpoint": {"every_steps": 1},
    }


def lorasmith(*arguments: str | Path) -> None:
    """Run the command line in a process of its own; it must succeed."""
    command = [sys.executable, "-m", "lorasmith", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")


def make_material(folder: Path) -> Material:
    """Train, convert and save what is then damaged."""
    images = folder / "images"
    images.mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (72, 64), (30 * i, 250 - 60 * i, 90)).save(images / f"{i}.png")
        (images / f"{i}.txt").write_text(f"a photo of garp, number {i}", encoding="utf-8")
    table = settings(images, str(folder / "run"))
    table["concepts"] = [{"words": ["<disc>"], "init": ["circle"], "lr": 1e-3}]
    table["hooks"] = [{"kind": "state", "every_steps": 1}]
    config = folder / "run.toml"
    config.write_text(to_toml(table), encoding="utf-8")
    lorasmith("train", config, "--yes")
    run = folder / "run"
    material = Material(folder, images, run, next(run.glob("*state*")))
    material.loras += [*run.glob("*.safetensors"), *(run / "embeddings").glob("*.safetensors")]
    make_loras(folder, material)
    make_pickles(folder, material)
    material.pictures = pictures()
    return material


def make_loras(folder: Path, material: Material) -> None:
    """A small file of each adapter kind, in our format and others, with metadata of other trainers."""
    from lorasmith.adapters.attach import AdapterSet
    from lorasmith.adapters.base import AdapterConfig
    from lorasmith.core.registry import registered
    from lorasmith.families.load import load
    from lorasmith.formats.kohya import encode

    family = load("tiny-sd")
    kinds = registered(AdapterConfig)
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_args": json.dumps({"conv_dim": "2"}),
        "ss_tag_frequency": json.dumps({"10_garp": {"garp": 3, "hat": 1}}),
        "ss_base_model_version": "sd_v1",
        "lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 4, "unet.alpha_pattern": {"attn1": 2}}),
    }
    for kind in ADAPTERS:
        layers = family.named_layers(("unet", "te"))
        adapters = AdapterSet.create(
            kinds[kind](layers=("*attn1.to_k", "*k_proj")), layers, family.layer_presets, seed=1
        )
        path = folder / f"{kind}.safetensors"
        tensors = {
            name: tensor.contiguous().clone() for name, tensor in encode(adapters.adapters, family.kohya_name).items()
        }
        save_file(tensors, path, metadata)
        material.loras.append(path)
    source = material.run / "garp.safetensors"
    for form in FORMATS:
        path = folder / f"garp-{form}.safetensors"
        lorasmith("convert", source, "--to", form, "--base", "tiny-sd", "-o", path)
        material.loras.append(path)


def make_pickles(folder: Path, material: Material) -> None:
    """Embeddings of A1111 and a file of Mix-of-Show, in both layouts of `torch.save`."""
    vectors = torch.randn(2, 32)
    embedding = {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "disc", "step": 3}
    layer = {"lora_down.weight": torch.randn(2, 32), "lora_up.weight": torch.randn(32, 2)}
    changes = {
        f"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.{name}": value for name, value in layer.items()
    }
    concept = {"<disc1>": torch.randn(16, 32), "<disc2>": torch.randn(16, 32)}
    edlora = {"params": {"new_concept_embedding": concept, "unet": changes, "text_encoder": {}}}
    for name, content in (("embedding.pt", embedding), ("edlora.pth", edlora), ("plain.bin", {"emb_params": vectors})):
        for zipped in (True, False):
            path = folder / f"{'zip' if zipped else 'old'}-{name}"
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            material.pickles.append(path)


def pictures() -> dict[str, bytes]:
    """The bytes of small pictures in every format that Pillow writes here, by suffix and mode."""
    import io

    from lorasmith.data.images import register_plugins

    register_plugins()
    formats = {
        "png": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16", "I"),
        "jpg": ("RGB", "L", "CMYK"),
        "webp": ("RGB", "RGBA"),
        "gif": ("P", "L"),
        "bmp": ("RGB", "1", "P"),
        "tif": ("RGB", "F", "I;16", "CMYK", "LAB"),
        "ppm": ("RGB", "L"),
        "tga": ("RGB", "RGBA"),
        "jp2": ("RGB",),
        "avif": ("RGB", "RGBA"),
        "heic": ("RGB",),
    }
    made: dict[str, bytes] = {}
    gradient = Image.linear_gradient("L").resize((70, 66))
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix, modes in formats.items():
        for mode in modes:
            picture = gradient.convert("I").convert(mode) if mode in ("I;16",) else gradient.convert("RGB")
            picture = Image.merge("LAB", [gradient] * 3) if mode == "LAB" else picture.convert("L").convert(mode)
            buffer = io.BytesIO()
            options = {"exif": exif} if suffix in ("jpg", "png", "webp") else {}
            name = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000", "heic": "HEIF"}.get(suffix, suffix.upper())
            try:
                picture.save(buffer, name, **options)
            except (OSError, KeyError, ValueError):
                continue
            made[f"{suffix}:{mode}"] = buffer.getvalue()
    return made


def copy_run(material: Material, folder: Path) -> Path:
    """A copy of the run that may be damaged."""
    return Path(shutil.copytree(material.run, folder / "run"))
