"""How each program is started on the tiny base: its data folder, its command line, and the LoRA files that it writes.

All see the same pictures the same number of times: 14 of garp, and 24 that the base drew itself, at 8 views a step.
What differs is what a program can do with them. DreamBooth scripts (diffusers, peft) read no captions: garp's pictures
have one prompt, and the others are class images of prior preservation, 4 + 4 views a step. Mix-of-Show trains on the
pictures of its concept alone, with masks. The others read captions.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ASSETS = Path("src/lorasmith/assets")
BATCH = 8
TOKENS = "<garp1> <garp2>"
LRS = (1.2e-3, 4e-4, 3.6e-3)
RANKS = (16, 4)
"""The search: each learning rate with each rank, one run each, the same for all programs. In it alpha is the rank. The
likeliest come first, for a call that is cut off."""


@dataclass(frozen=True)
class Case:
    """One training. `setting`: `default`, `trial` (of the search), or `best` (the winner of the search)."""

    peer: str
    setting: str
    seed: int
    lr: float = 0.0
    rank: int = 0

    @property
    def name(self) -> str:
        chosen = "" if self.setting == "default" else f"-lr{self.lr:g}-r{self.rank}"
        return f"{self.peer}-{self.setting}{chosen}-s{self.seed}"


@dataclass(frozen=True)
class Job:
    """What a case runs: a script with arguments and module folders, or a function; the files that it leaves."""

    script: Path | None
    arguments: tuple[str, ...]
    paths: tuple[Path, ...]
    files: tuple[Path, ...]
    folder: Path
    function: Callable[[], None] | None = None
    prompt: str = "garp"


def write_data(work: Path) -> None:
    """The folders of pictures that the scripts read, below `work/data`."""
    data = work / "data"
    if data.exists():
        return
    garp = sorted((ASSETS / "garp").glob("*.png"))
    others = sorted((ASSETS / "others").glob("*.png"))
    _copy(garp, data / "instance")
    _copy(others, data / "class")
    for name, files in (("garp", garp), ("others", others)):
        _copy(files, data / "captioned" / name)
        _copy([file.with_suffix(".txt") for file in files], data / "captioned" / name)
    rows = []
    # pictures of garp count twice, as in the recipe garp
    for prefix, files in (("a", garp), ("b", garp), ("other", others)):
        for file in files:
            name = f"{prefix}-{file.name}"
            (data / "listed").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, data / "listed" / name)
            rows.append({"file_name": name, "text": file.with_suffix(".txt").read_text("utf-8").strip()})
    (data / "listed" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    _copy(garp, data / "concept" / "image")
    _copy([file.parent / "masks" / file.name for file in garp], data / "concept" / "mask")
    (data / "concept" / "caption").mkdir()
    for file in garp:
        text = file.with_suffix(".txt").read_text("utf-8").replace("garp", "<TOK>")
        (data / "concept" / "caption" / f"{file.stem}.txt").write_text(text, "utf-8")


def _copy(files: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, folder / file.name)


def _dreambooth(case: Case, work: Path, steps: int) -> list[str]:
    """The arguments that diffusers' and peft's DreamBooth scripts share."""
    data = work / "data"
    given = {
        "pretrained_model_name_or_path": ASSETS / "tiny-sd",
        "instance_data_dir": data / "instance",
        "instance_prompt": "a photo of garp",
        "class_data_dir": data / "class",
        "class_prompt": "a photo",
        "num_class_images": 24,
        "output_dir": work / case.name,
        "resolution": 128,
        "train_batch_size": BATCH // 2,
        "max_train_steps": steps,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "seed": case.seed,
        "mixed_precision": "no",
    }
    return ["--with_prior_preservation", *(f"--{key}={value}" for key, value in given.items())]


def diffusers_dreambooth(case: Case, code: Path, work: Path, steps: int) -> Job:
    """diffusers' train_dreambooth_lora.py; by default rank 4 and a learning rate of 5e-4."""
    arguments = _dreambooth(case, work, steps)
    if case.setting != "default":
        arguments += [f"--learning_rate={case.lr}", f"--rank={case.rank}"]
    script = code / "diffusers/examples/dreambooth/train_dreambooth_lora.py"
    file = work / case.name / "pytorch_lora_weights.safetensors"
    return Job(script, (*arguments, "--checkpointing_steps=100000"), (), (file,), work / case.name)


def diffusers_text_to_image(case: Case, code: Path, work: Path, steps: int) -> Job:
    """diffusers' train_text_to_image_lora.py; by default rank 4 and a learning rate of 1e-4."""
    given = {
        "pretrained_model_name_or_path": ASSETS / "tiny-sd",
        "train_data_dir": work / "data" / "listed",
        "cache_dir": work / case.name / "cache",
        "output_dir": work / case.name,
        "resolution": 128,
        "train_batch_size": BATCH,
        "max_train_steps": steps,
        "lr_warmup_steps": 0,
        "checkpointing_steps": 100000,
        "seed": case.seed,
        "mixed_precision": "no",
    }
    if case.setting != "default":
        given |= {"learning_rate": case.lr, "rank": case.rank}
    script = code / "diffusers/examples/text_to_image/train_text_to_image_lora.py"
    file = work / case.name / "pytorch_lora_weights.safetensors"
    return Job(script, tuple(f"--{key}={value}" for key, value in given.items()), (), (file,), work / case.name)


def peft(case: Case, code: Path, work: Path, steps: int) -> Job:
    """peft's example of DreamBooth with its own LoraConfig; by default the command of its documentation."""
    lr, rank, alpha = (1e-4, 16, 27) if case.setting == "default" else (case.lr, case.rank, case.rank)
    chosen = {
        "learning_rate": lr,
        "lora_r": rank,
        "lora_alpha": alpha,
        "lora_text_encoder_r": rank,
        "lora_text_encoder_alpha": alpha,
        "num_dataloader_workers": 0,
    }
    flags = ["--use_lora", "--train_text_encoder", "--no_tracemalloc"]
    arguments = [*_dreambooth(case, work, steps), *flags, *(f"--{key}={value}" for key, value in chosen.items())]
    parts = [work / case.name / part / "adapter_model.safetensors" for part in ("unet", "text_encoder")]
    script = code / "peft/examples/lora_dreambooth/train_dreambooth.py"
    return Job(script, tuple(arguments), (), tuple(parts), work / case.name)


def mix_of_show(case: Case, code: Path, work: Path, steps: int) -> Job:
    """Mix-of-Show's train_edlora.py; by default the settings of its example of a character."""
    lr, rank = (1e-4, 4) if case.setting == "default" else (case.lr, case.rank)
    pictures = work / "data" / "concept"
    folder = work / case.name
    folder.mkdir(parents=True, exist_ok=True)
    concept = {"instance_prompt": "<TOK>", "instance_data_dir": str(pictures / "image")}
    concept |= {"caption_dir": str(pictures / "caption"), "mask_dir": str(pictures / "mask")}
    (folder / "concept.json").write_text(json.dumps([concept]), "utf-8")
    mapping = {"<TOK>": TOKENS}
    transforms: list[dict[str, Any]] = [
        {"type": "HumanResizeCropFinalV3", "size": 128, "crop_p": 0.5},
        {"type": "ToTensor"},
        {"type": "Normalize", "mean": [0.5], "std": [0.5]},
        {"type": "ShuffleCaption", "keep_token_num": 1},
    ]
    train_data = {
        "concept_list": str(folder / "concept.json"),
        "use_caption": True,
        "use_mask": True,
        "instance_transform": transforms,
        "replace_mapping": mapping,
        "batch_size_per_gpu": BATCH,
        # its last step is the first one after all pictures were seen this many times
        "dataset_enlarge_ratio": math.floor(steps * BATCH / 14),
    }
    shown = {"prompts": ["<TOK>"], "num_samples_per_prompt": 1, "latent_size": [4, 16, 16], "batch_size_per_gpu": 1}
    layers = {"rank": rank, "alpha": 1.0}
    tuning = {
        "text_embedding": {"enable_tuning": True, "lr": 1e-3},
        # the ratio of the two rates is that of their examples
        "text_encoder": {"enable_tuning": True, "lr": lr / 10, "lora_cfg": layers | {"where": "CLIPAttention"}},
        "unet": {"enable_tuning": True, "lr": lr, "lora_cfg": layers | {"where": "Attention"}},
    }
    table = {
        "name": case.name,
        "manual_seed": case.seed,
        "mixed_precision": "no",
        "gradient_accumulation_steps": 1,
        "datasets": {"train": train_data, "val_vis": shown | {"replace_mapping": mapping}},
        "models": {
            "pretrained_path": str(ASSETS / "tiny-sd"),
            "enable_edlora": True,
            "finetune_cfg": tuning,
            "new_concept_token": TOKENS.replace(" ", "+"),
            "initializer_token": "<rand-0.013>+face",
            "noise_offset": 0.01,
            "attn_reg_weight": 0.01,
            "reg_full_identity": False,
            "use_mask_loss": True,
        },
        "path": {"pretrain_network": None},
        "train": {
            "optim_g": {"type": "AdamW", "lr": 0.0, "weight_decay": 0.01, "betas": [0.9, 0.999]},
            "unet_kv_drop_rate": 0,
            "scheduler": "linear",
            "emb_norm_threshold": 0.55,
        },
        "val": {"val_during_save": False},
        "logger": {"print_freq": 100, "save_checkpoint_freq": 100000},
    }
    options = folder / "options.yml"
    # JSON is YAML, and the stand-in for its reader reads JSON
    options.write_text(json.dumps(table), "utf-8")
    place = code / "Mix-of-Show"
    file = place / "experiments" / case.name / "models" / "edlora_model-latest.pth"
    paths = (place, code / "stand-ins")
    return Job(place / "train_edlora.py", ("-opt", str(options)), paths, (file,), folder, prompt=TOKENS)


def kohya(case: Case, code: Path, work: Path, steps: int) -> Job:
    """sd-scripts' train_network.py; by default the command of its documentation, with AdamW for its 8-bit form."""
    lr, rank, alpha = (1e-4, 16, 1) if case.setting == "default" else (case.lr, case.rank, case.rank)
    folder = work / case.name
    folder.mkdir(parents=True, exist_ok=True)
    captioned = (work / "data" / "captioned").absolute()
    (folder / "data.toml").write_text(
        f"[general]\ncaption_extension = '.txt'\n\n[[datasets]]\nresolution = 128\nbatch_size = {BATCH}\n"
        f"enable_bucket = false\n\n[[datasets.subsets]]\nimage_dir = '{captioned}/garp'\nnum_repeats = 2\n\n"
        f"[[datasets.subsets]]\nimage_dir = '{captioned}/others'\nnum_repeats = 1\n",
        "utf-8",
    )
    given = {
        "pretrained_model_name_or_path": ASSETS / "tiny-sd",
        "dataset_config": folder / "data.toml",
        "output_dir": folder,
        "output_name": "lora",
        "save_model_as": "safetensors",
        "network_module": "networks.lora",
        "network_dim": rank,
        "network_alpha": alpha,
        "learning_rate": lr,
        "optimizer_type": "AdamW",
        "lr_scheduler": "constant",
        "max_train_steps": steps,
        "mixed_precision": "no",
        "seed": case.seed,
        "max_data_loader_n_workers": 0,
    }
    flags = ("--cache_latents", "--sdpa", "--no_metadata")
    arguments = (*flags, *(f"--{key}={value}" for key, value in given.items()))
    place = code / "sd-scripts"
    return Job(place / "train_network.py", arguments, (place,), (folder / "lora.safetensors",), folder)


def lorasmith(case: Case, code: Path, work: Path, steps: int) -> Job:
    """Our recipe for garp; by default a config with nothing but base, pictures and length."""
    recipe = tomllib.loads((ASSETS / "recipes/garp.toml").read_text("utf-8"))
    folder = work / case.name
    table: dict[str, Any] = {key: recipe[key] for key in ("base", "trigger", "data")} | {
        "name": "lora",
        "seed": case.seed,
        "steps": steps,
        "log": {"tensorboard": False},
        "checkpoint": {},
    }
    table["data"]["batch_size"] = BATCH
    if case.setting != "default":
        table |= {key: recipe[key] for key in ("adapter", "optimizer", "lr_schedule", "objective")}
        table["adapter"] |= {"rank": case.rank}
        table["optimizer"] |= {"lr": case.lr, "text_lr": case.lr}
    return _training_of(table, folder)


def lorasmith_recipe(case: Case, code: Path, work: Path, steps: int) -> Job:
    """Our recipe for garp as it is: 110 steps of 6, which are two fifths of the others' views."""
    recipe = tomllib.loads((ASSETS / "recipes/garp.toml").read_text("utf-8"))
    del recipe["preview"], recipe["output"]
    table = recipe | {"name": "lora", "seed": case.seed, "steps": min(steps, recipe["steps"])}
    return _training_of(table, work / case.name)


def _training_of(table: dict[str, Any], folder: Path) -> Job:
    """A training of ours with this config."""

    def train() -> None:
        import lorasmith as program

        program.train(table, output=folder, overwrite=True, accept_remarks=True)

    return Job(None, (), (), (folder / "lora.safetensors",), folder, function=train)


@dataclass(frozen=True)
class Peer:
    """A program. `searched`: whether the search is made with it, too."""

    job: Callable[[Case, Path, Path, int], Job]
    searched: bool = True


PEERS: dict[str, Peer] = {
    "lorasmith": Peer(lorasmith),
    "lorasmith-recipe": Peer(lorasmith_recipe, searched=False),
    "kohya": Peer(kohya),
    "diffusers-dreambooth": Peer(diffusers_dreambooth),
    "diffusers-text-to-image": Peer(diffusers_text_to_image),
    "peft": Peer(peft),
    "mix-of-show": Peer(mix_of_show),
}


def start(job: Job) -> None:
    """Run the script or the function of a job in this process."""
    if job.function is not None:
        job.function()
        return
    import runpy

    assert job.script is not None
    sys.path[:0] = [str(path.absolute()) for path in job.paths]
    sys.argv = [str(job.script), *job.arguments]
    runpy.run_path(str(job.script), run_name="__main__")
