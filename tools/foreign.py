"""Write `docs/kohya.md`, `docs/diffusers.md` and `docs/mixofshow.md` from the tables of options that the code uses.

python -m tools.foreign           # write
python -m tools.foreign --check   # exit 1 if what is there is not current
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from lorasmith.compat.kohya.dataset import IMAGE_KEYS, SIZE_KEYS, SOURCE_KEYS
from lorasmith.compat.kohya.network import ALGORITHMS, MODULES, PRESETS
from lorasmith.compat.kohya.options import OPTIONS, SDXL_OPTIONS, SECTIONS
from lorasmith.compat.kohya.options.dreambooth import ABSENT as DB_ABSENT
from lorasmith.compat.kohya.options.dreambooth import OPTIONS as DB_OPTIONS
from lorasmith.compat.kohya.options.dreambooth import OWN as DB_OWN
from lorasmith.compat.kohya.options.inversion import ABSENT, OWN
from lorasmith.compat.kohya.options.inversion import OPTIONS as INVERSION_OPTIONS
from lorasmith.compat.options import STATES, Option, all_scripts
from tools.markdown import fold

DOCS = Path(__file__).parents[1] / "docs"
HEAD = """# Kohya's configs

Written by `python -m tools.foreign` from the tables that the code uses; a test fails when it is not current.

A config of kohya-ss/sd-scripts trains as it is:

```bash
lorasmith as train_network --config_file=my.toml
lorasmith as train_network --config_file=my.toml --network_dim=8 --max_train_steps=500
lorasmith convert-config my.toml > mine.toml        # the same as a config of lorasmith
```

Options on the command line count before the file's. Sections of the file have no meaning; of keys that come twice the
last one counts; `""` is unset; numbers may be texts and `1` may be true. An unknown option is left out with a note that
names the nearest one. An option that is refused is an error, unless it is unset or has its default.

Files stand where the original writes them, as soon as they are made: `output_dir/output_name.safetensors`, those of
epochs `output_name-000002.safetensors`, those of steps `output_name-step00000100.safetensors`, pictures in
`output_dir/sample`. All else of the run (its settings, checkpoints, log, report) is in the folder
`output_dir/output_name`; an earlier run of that name is moved aside.

`save_state` writes the folders `output_name-000002-state`, `output_name-step00000100-state` and `output_name-state`.
`--resume` continues from any of them exactly, also when the run has gone further since; and from
`output_dir/output_name`, where the run last was. The other options count as they do without it, so a run can be made
longer. A state that sd-scripts wrote cannot be continued; set `network_weights` to the `model.safetensors` in it and
`initial_step` to its step.
"""


DIFFUSERS = """# diffusers' example scripts

Written by `python -m tools.foreign` from the tables that the code uses; a test fails when it is not current.

```bash
lorasmith as train_dreambooth_lora --pretrained_model_name_or_path=... --instance_data_dir=... --instance_prompt="..."
lorasmith convert-config -- train_text_to_image_lora --pretrained_model_name_or_path=... --train_data_dir=...
```

Every option of the original has its default and meaning, but for what the notes say. `output_dir` is the run's
folder: it holds `pytorch_lora_weights.safetensors` (with the alphas that the originals leave out), the same LoRA
under kohya's names, and all else of a run. With prior preservation a batch holds as many class pictures as pictures
of the thing; the mean over both is half of the original's sum, which AdamW does not feel but gradient clipping does.
Pictures keep their shape, in buckets.
"""
MIX_OF_SHOW = """# Mix-of-Show's YAML files

Written by `python -m tools.foreign` from the tables that the code uses; a test fails when it is not current.

```bash
lorasmith as train_edlora -opt EDLoRA_x.yml
lorasmith as test_edlora -opt EDLoRA_x.yml --lora-path experiments/x/x.safetensors --save-dir results
```

The run is in `experiments/<name>`: `<name>.safetensors` (the LoRA, for every program), `<name>.exact.safetensors`
(with the words of each cross-attention layer) and `embeddings/` (the words for user interfaces: the mean over the
layers). Pictures of several concepts by regions: [regions.md](regions.md).
"""


def page() -> str:
    """The page of sd-scripts."""
    counts = Counter(option.state for option in OPTIONS)
    says = "; ".join(f"{STATES[state]}: {counts[state]}" for state in STATES)
    parts = [HEAD, "## Options", f"{len(OPTIONS)} options of `train_network`. {says}."]
    for title, options in SECTIONS.items():
        parts += [f"### {title}", table(options)]
    parts += [
        "### Of sdxl_train_network besides",
        table(SDXL_OPTIONS),
        inversion(),
        dreambooth(),
        dataset(),
        networks(),
    ]
    return fold("\n\n".join(part.strip() for part in parts) + "\n")


def scripts(head: str, origin: str) -> str:
    """The page of all scripts of one origin; a script like one before it shows only what differs."""
    parts, before = [head], {}
    for name, script in all_scripts().items():
        if script.origin != origin:
            continue
        new = tuple(o for o in script.options if before.get(o.name) != o)
        missing = sorted(before.keys() - {o.name for o in script.options})
        says = f"Without {', '.join(f'`{n}`' for n in missing)}. " if missing and before else ""
        says += f"{len(script.options)} options" + ("; the others as above." if len(new) < len(script.options) else ".")
        parts += [f"## {name}", says, table(new)]
        before = {o.name: o for o in script.options}
    return fold("\n\n".join(part.strip() for part in parts) + "\n")


def pages() -> dict[str, str]:
    """File name to page."""
    return {
        "kohya.md": page(),
        "diffusers.md": scripts(DIFFUSERS, "diffusers"),
        "mixofshow.md": scripts(MIX_OF_SHOW, "Mix-of-Show"),
    }


def table(options: tuple[Option, ...]) -> str:
    """One row an option."""
    rows = [f"| `{o.name}` | {default(o)} | {STATES[o.state]} | {key(o)} | {o.note} |" for o in options]
    return "\n".join(["| option | default | here | our key | note |", "| --- | --- | --- | --- | --- |", *rows])


def default(option: Option) -> str:
    """The original's default."""
    return "flag" if option.type == "flag" else "" if option.default in (None, "") else f"`{option.default}`"


def key(option: Option) -> str:
    """The key of our config."""
    return f"`{option.to}`" if option.to else ""


def inversion() -> str:
    """The scripts of textual inversion."""
    return "\n\n".join(
        (
            "## Textual inversion",
            f"`train_textual_inversion` ({len(INVERSION_OPTIONS)} options), `sdxl_train_textual_inversion`, and "
            "`train_textual_inversion_XTI`, which starts again here: a set of vectors for each cross-attention layer.",
            "The word stands in `output_dir/output_name.pt` (or `.safetensors`; called as the word unless a "
            "name is given) as `emb_params`, of SDXL `clip_l` and `clip_g`, of XTI `IN01` to `OUT11`; files of epochs "
            "and steps stand beside it. The run's folder "
            "has it in our exact form and, as a mean over layers where it has them, for user interfaces. "
            f"Without {', '.join(f'`{n}`' for n in sorted(ABSENT - {'save_model_as'}))}; besides:",
            table(OWN),
        )
    )


def dreambooth() -> str:
    """The script of full fine-tuning."""
    return "\n\n".join(
        (
            "## Full fine-tuning",
            f"`train_db` ({len(DB_OPTIONS)} options) trains all weights of the UNet, and of the text encoder but for "
            "its embeddings. They are learned as differences in float32, so that small updates are not lost and weight "
            "decay pulls to the base; the run's folder has these too. "
            f"Without {', '.join(f'`{n}`' for n in sorted(DB_ABSENT - {'save_model_as'}))}; besides:",
            table(DB_OWN),
        )
    )


def dataset() -> str:
    """The keys of dataset configs."""
    rows = []
    for options, where in (
        (SIZE_KEYS, "general, datasets"),
        (IMAGE_KEYS, "general, datasets, subsets"),
        (SOURCE_KEYS, "subsets"),
    ):
        rows += [f"| `{o.name}` | {where} | {o.note} |" for o in options]
    return "\n\n".join(
        (
            "## Dataset configs",
            "TOML or JSON, named by `dataset_config`. A value is searched in the subset, its dataset, `general`, the "
            "options of the script, in this order; an explicit `0` or `false` counts. An unknown key is an error, as "
            "in the original. `resolution` may be a text, `alpha_mask` may stand anywhere, and `validation_split` in a "
            "subset is read, if all subsets agree. Datasets of one file may differ in resolution, batch "
            "size and buckets; the share that is held out is the same for all.",
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
            "`networks.dylora` reads `unit` besides; `lycoris.kohya` calls it block_size, with `algo=dylora`.",
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
            sys.exit(f"{name} is not current; run: python -m tools.foreign")


if __name__ == "__main__":
    main()
