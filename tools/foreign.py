"""Write `docs/kohya.md`, `docs/diffusers.md`, `docs/mixofshow.md` and `docs/ai-toolkit.md` from the option tables.

python -m tools.foreign           # write
python -m tools.foreign --check   # exit 1 if what is there is not current
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from lorasmith.compat.kohya.dataset import DATASET_KEYS, IMAGE_KEYS, SUBSET_KEYS
from lorasmith.compat.kohya.flow_networks import FLUX, FLUX_MODULES, LYCORIS_PRESETS, SD3, SD3_MODULES, Transformer
from lorasmith.compat.kohya.lycoris import ALGORITHMS, PRESETS
from lorasmith.compat.kohya.network import MODULES
from lorasmith.compat.kohya.options import OPTIONS, SDXL_OPTIONS, SECTIONS
from lorasmith.compat.kohya.options.dreambooth import ABSENT as DB_ABSENT
from lorasmith.compat.kohya.options.dreambooth import OPTIONS as DB_OPTIONS
from lorasmith.compat.kohya.options.dreambooth import OWN as DB_OWN
from lorasmith.compat.kohya.options.flow import FLUX_OWN, SD3_OWN, UNUSED_OPTIONS
from lorasmith.compat.kohya.options.inversion import ABSENT, OWN
from lorasmith.compat.kohya.options.inversion import OPTIONS as INVERSION_OPTIONS
from lorasmith.compat.options import STATES, Option
from lorasmith.compat.script import all_scripts
from tools.markdown import fold

DOCS = Path(__file__).parents[1] / "docs"
HEAD = """# Kohya's configs

Written by `python -m tools.foreign` from the option tables in the code. A test fails if this page is out of date.

A config of kohya-ss/sd-scripts can be trained unchanged:

```bash
lorasmith as train_network --config_file=my.toml
lorasmith as train_network --config_file=my.toml --network_dim=8 --max_train_steps=500
lorasmith convert-config my.toml > mine.toml        # convert it to a config of lorasmith
```

The tables are those of sd-scripts 0.10.1, and of 0.11.1 what it adds for Stable Diffusion: `networks.loha`,
`networks.lokr`, `skip_image_resolution`, `train_inpainting` (refused), data sets of several resolutions. Its
scripts for concept erasure (`train_leco`, `sdxl_train_leco`) are refused: they train from prompts alone, and runs here
are made of images and epochs. diffusers' and Mix-of-Show's scripts have pages of their own.

Options on the command line override those of the file. Sections of the file have no meaning. If a key occurs twice, the
last value counts. `""` means unset, as does `false` for an option that is not a flag; numbers may be written as text,
and `1` may stand for true. As in the original, an unknown option on the command line is an error, and so is an argument
that belongs to no option; an unknown key of a file is ignored, here with a note that names the most similar known one.
A refused option is an error, unless it is unset or has its default value.

The state of an option is one of:

* **same**: it does the same as in the original.
* **improved**: it does the same, without a fault of the original. The note names the difference.
* **accepted, no effect**: there is nothing to do here. The note says why.
* **refused**: it is an error. The note says what to use instead.

Started by a launcher in several processes, a script trains as the original does: each process has a batch of
`train_batch_size`, so a step has the batches of all of them, and epochs have as many steps fewer. (The batch size of
our own configs is that of all processes together.)

Files are written to the same places as in the original, as soon as they exist: `output_dir/output_name.safetensors`,
`output_name-000002.safetensors` after epochs, `output_name-step00000100.safetensors` after steps, and preview images in
`output_dir/sample`. Everything else (settings, checkpoints, log, report) is in the run's folder,
`output_dir/output_name`. An earlier run of the same name is moved aside.

`save_state` writes the folders `output_name-000002-state`, `output_name-step00000100-state` and `output_name-state`.
`--resume` continues exactly from any of them, also if the run has gone further since, or from `output_dir/output_name`,
which is the latest point of the run. The other options still count, so that a run can be made longer. A state that
sd-scripts wrote cannot be continued: set `network_weights` to the `model.safetensors` in it and `initial_step` to its
step instead.
"""


DIFFUSERS = """# diffusers' example scripts

Written by `python -m tools.foreign` from the option tables in the code. A test fails if this page is out of date.

```bash
lorasmith as train_dreambooth_lora --pretrained_model_name_or_path=... --instance_data_dir=... --instance_prompt="..."
lorasmith convert-config -- train_text_to_image_lora --pretrained_model_name_or_path=... --train_data_dir=...
```

Every option has the default and the meaning of the original, except where a note says otherwise. `output_dir` is the
run's folder. It contains `pytorch_lora_weights.safetensors` (with the alphas that the originals omit), the same LoRA
with kohya's names, a model card (`README.md`, in which you state the licence), and everything else of a run. Pivotal
tuning also writes `NAME_emb.safetensors`, in the original's layout.
With prior preservation, a batch contains as many class images as
instance images. The loss is the mean over both, which is half of the original's sum; this makes no difference to AdamW,
but it does to gradient clipping. Images keep their aspect ratio, in buckets. Started by a launcher in several
processes, each has a batch of `train_batch_size`, as in the original. An unknown option is an error there and
here.
"""
MIX_OF_SHOW = """# Mix-of-Show's YAML files

Written by `python -m tools.foreign` from the option tables in the code. A test fails if this page is out of date.

```bash
lorasmith as accelerate launch train_edlora.py -opt EDLoRA_x.yml
lorasmith as test_edlora -opt experiments/x/EDLoRA_x.yml --lora-path experiments/x/models/edlora_model-latest.pth
lorasmith convert experiments/x/x.safetensors --to mixofshow        # the .pth of any LoRA of SD 1.x
```

The run's folder is `experiments/<name>`. It contains what the original writes: `models/edlora_model-latest.pth` (and
`edlora_model-<step>.pth` at each save), which the original's scripts read too, a copy of the YAML file, and
`visualization/`. Beside these are `<name>.safetensors` (the LoRA, for every program), `<name>.exact.safetensors` (with
the token embeddings of each cross-attention layer) and `embeddings/` (the token embeddings for user interfaces: the
mean over the layers). References (`${models.new_concept_token}`) are resolved as OmegaConf does. Notes are printed
where something differs from what the file asks for. Images of several concepts by regions:
[regions.md](regions.md).
"""


AI_TOOLKIT = """# ai-toolkit's files

Written by `python -m tools.foreign` from the option tables in the code. A test fails if this page is out of date.

```bash
lorasmith as ai-toolkit my_config.yaml
lorasmith as ai-toolkit my_config.yaml -n another_name
lorasmith convert-config my_config.yaml > mine.toml
```

Jobs of the types `sd_trainer`, `diffusion_trainer` and `ui_trainer` run that train a LoRA of SD 1.x, 2.x, SDXL, SD 3,
SD 3.5 or Flux.1. Files may be YAML or JSON; `[name]` and `${VARIABLE}` are replaced. The run's folder is
`training_folder/name`, with `name.safetensors`, `name_000000250.safetensors` after steps, and `samples/`. LoRAs of SD 3
and Flux have diffusers' names, as in the original, the others kohya's.

What differs: t is any number, not one of 1000. Data sets and resolutions are mixed in one order, and regularisation
images are used as often as they are many. Dropped captions hold the trigger of the run alone, as in the original;
where the original caches texts, it never drops captions, and here they are dropped. AdamW has eps = 1e-6, as there.
Images are not enlarged. Flux is drawn without a second pass.

Refused, with a message that names the key: other jobs (generate, extract, merge), sliders, other families of models
(`arch`), IP and control adapters, videos, embeddings, `timestep_type: weighted` (a table of 1000 measured numbers),
`lognorm_blend`, `next_sample` and the few-step types, `automagic`, DOP (use `prior_reg` or `preserve`), and everything
in the table that says so. An unknown key gives a note, where the original says nothing.
"""


def page() -> str:
    """The page of sd-scripts."""
    counts = Counter(option.state for option in OPTIONS)
    by_state = "; ".join(f"{STATES[state]}: {counts[state]}" for state in STATES)
    parts = [HEAD, "## Options", f"{len(OPTIONS)} options of `train_network`. {by_state}."]
    for title, options in SECTIONS.items():
        parts += [f"### {title}", table(options)]
    parts += [
        "### Further options of sdxl_train_network",
        table(SDXL_OPTIONS),
        flow(),
        inversion(),
        dreambooth(),
        dataset(),
        networks(),
    ]
    return fold("\n\n".join(part.strip() for part in parts) + "\n")


def scripts(head: str, origin: str, first: str) -> str:
    """The page of all scripts of one origin; each lists only the options that differ from the script before it.

    `first`: the beginning of the names of those that come first.
    """
    parts = [head]
    before: dict[str, Option] = {}
    of_origin = [(name, script) for name, script in all_scripts().items() if script.origin == origin]
    of_origin.sort(key=lambda pair: not pair[0].startswith(first))
    for name, script in of_origin:
        options = {option.name: option for option in script.options}
        different = tuple(option for option in script.options if before.get(option.name) != option)
        missing = sorted(before.keys() - options.keys())
        summary = f"{len(options)} options"
        summary += "; the others are the same as above." if len(different) < len(options) else "."
        if missing:
            summary = f"Without {', '.join(f'`{option}`' for option in missing)}. {summary}"
        parts += [f"## {name}", summary, table(different)]
        before = options
    return fold("\n\n".join(part.strip() for part in parts) + "\n")


def pages() -> dict[str, str]:
    """File name to page."""
    return {
        "kohya.md": page(),
        "diffusers.md": scripts(DIFFUSERS, "diffusers", "train_dreambooth"),
        "mixofshow.md": scripts(MIX_OF_SHOW, "Mix-of-Show", "train_edlora"),
        "ai-toolkit.md": scripts(AI_TOOLKIT, "ai-toolkit", "ai-toolkit"),
    }


def table(options: tuple[Option, ...]) -> str:
    """One row an option."""
    rows = [f"| `{o.name}` | {default(o)} | {STATES[o.state]} | {key(o)} | {o.note} |" for o in options]
    return "\n".join(["| option | default | here | our key | note |", "| --- | --- | --- | --- | --- |", *rows])


def default(option: Option) -> str:
    """The original's default."""
    if option.type == "flag":
        return "flag"
    return "" if option.default in (None, "") else f"`{option.default}`"


def key(option: Option) -> str:
    """The key of our config."""
    return f"`{option.to}`" if option.to else ""


def flow() -> str:
    """The scripts of SD3 and Flux."""
    unused = "A base is a diffusers folder, of which all parts are used. t is any number, not one of 1000."
    return "\n\n".join(
        (
            "## Stable Diffusion 3 and Flux",
            "`sd3_train_network` and `flux_train_network` train LoRAs of SD 3 and 3.5, and of Flux.1 dev and schnell. "
            f"{unused} Of the shared options, these have another meaning or none:",
            table(UNUSED_OPTIONS),
            "### Further options of sd3_train_network",
            table(SD3_OWN),
            "### Further options of flux_train_network",
            table(FLUX_OWN),
            "### Networks of these scripts",
            f"`sd3_train_network`: {', '.join(f'`{m}`' for m in SD3_MODULES)}. "
            f"`flux_train_network`: {', '.join(f'`{m}`' for m in FLUX_MODULES)}.",
            "All linear layers of the blocks are trained, and those of CLIP unless network_train_unet_only is set; T5 "
            "is never trained. Queries, keys and values have an adapter each, as with `split_qkv=True` in the "
            "original; without it, the original has one for all of them.",
            f"`networks.lora_sd3` reads {arguments_of(SD3)}. `networks.lora_flux` reads {arguments_of(FLUX)} and "
            "`train_blocks`. Both read split_qkv, rank_dropout, module_dropout and the ratios of LoRA+. Refused: "
            "train_t5xxl, network_reg_dims, network_reg_lrs, ggpo_beta, ggpo_sigma.",
            f"`lycoris.kohya`: `preset` {', '.join(f'`{p}`' for p in LYCORIS_PRESETS)}; the other arguments as below.",
        )
    )


def arguments_of(model: Transformer) -> str:
    """The arguments about ranks and blocks."""
    names = [group.argument for group in model.groups] + [*model.selections, model.inputs]
    return ", ".join(f"`{name}`" for name in names)


def inversion() -> str:
    """The scripts of textual inversion."""
    return "\n\n".join(
        (
            "## Textual inversion",
            f"`train_textual_inversion` ({len(INVERSION_OPTIONS)} options), `sdxl_train_textual_inversion`, and "
            "`train_textual_inversion_XTI` (which can be run again here: it trains separate vectors for "
            "each cross-attention layer).",
            "The token embedding is written to `output_dir/output_name.pt` (or `.safetensors`; the default name is the "
            "token itself) as `emb_params`, for SDXL as `clip_l` and `clip_g`, for XTI as `IN01` to `OUT11`. Files of "
            "epochs and steps are written beside it. The run's folder contains it in our exact form and for user "
            "interfaces (there as the mean over the layers, if it has several). "
            f"These scripts do not have {', '.join(f'`{n}`' for n in sorted(ABSENT - {'save_model_as'}))}. Further "
            "options:",
            table(OWN),
        )
    )


def dreambooth() -> str:
    """The script of full fine-tuning."""
    return "\n\n".join(
        (
            "## Full fine-tuning",
            f"`train_db` ({len(DB_OPTIONS)} options) trains all weights of the UNet and of the text encoder, except "
            "the text encoder's embeddings. The differences from the base are trained in float32, so that small "
            "updates are not lost and weight decay pulls towards the base. The run's folder contains these "
            "differences, too. "
            f"This script does not have {', '.join(f'`{n}`' for n in sorted(DB_ABSENT - {'save_model_as'}))}. Further "
            "options:",
            table(DB_OWN),
        )
    )


def dataset() -> str:
    """The keys of dataset configs."""
    rows = []
    for options, where in (
        (DATASET_KEYS, "general, datasets"),
        (IMAGE_KEYS, "general, datasets, subsets"),
        (SUBSET_KEYS, "subsets"),
    ):
        rows += [f"| `{o.name}` | {where} | {o.note} |" for o in options]
    return "\n\n".join(
        (
            "## Dataset configs",
            "A TOML or JSON file named by `dataset_config`. A value is looked up in the subset, in its dataset, in "
            "`general` and in the options of the script, in this order; an explicit `0` or `false` counts as a value. "
            "An unknown key is an error, as in the original. `resolution` may be text, `alpha_mask` is allowed at "
            "every level, and `validation_split` may be set in subsets if all subsets have the same value. Datasets of "
            "one file may differ in resolution, batch size and buckets; the validation split is the same for all.",
            "\n".join(["| key | in | note |", "| --- | --- | --- |", *rows]),
        )
    )


def networks() -> str:
    """The networks and algorithms by name."""
    algorithms = ", ".join(f"`{name}`" for name in ALGORITHMS)
    return "\n\n".join(
        (
            "## Networks",
            f"`network_module`: {', '.join(f'`{m}`' for m in MODULES)}. A kind that is not installed is an error.",
            "`networks.lora` reads conv_dim, conv_alpha, rank_dropout, module_dropout, block_dims, block_alphas, "
            "conv_block_dims, conv_block_alphas, down_lr_weight, mid_lr_weight, up_lr_weight (numbers, or sine, "
            "cosine, linear, reverse_linear, zeros with `+base`) and block_lr_zero_threshold.",
            "`networks.dylora` also reads `unit`, which `lycoris.kohya` with `algo=dylora` calls block_size.",
            "`networks.loha` and `networks.lokr` read conv_dim, conv_alpha, rank_dropout, module_dropout, use_tucker, "
            "and `networks.lokr` also factor. The original has them for SDXL only, here they train every family.",
            f"`lycoris.kohya`: `algo` {algorithms}; `preset` {', '.join(f'`{p}`' for p in PRESETS)}; conv_dim, "
            "conv_alpha, dropout, rank_dropout, module_dropout, factor, decompose_both, full_matrix, use_tucker, "
            "use_scalar, rs_lora, dora_wd, wd_on_output, block_size, constraint, train_norm.",
        )
    )


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for name, text in pages().items():
        target = DOCS / name
        if not check:
            target.write_text(text, encoding="utf-8")
        elif not target.is_file() or target.read_text(encoding="utf-8") != text:
            sys.exit(f"{name} is out of date; run: python -m tools.foreign")


if __name__ == "__main__":
    main()
