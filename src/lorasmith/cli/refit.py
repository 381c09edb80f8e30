"""`lorasmith refit`: replace layer-wise tokens by ordinary ones, for programs that have one vector for each token."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorasmith.cli import console
from lorasmith.cli.options import Device, Dtype, Json, NewFile, Overwrite

if TYPE_CHECKING:
    from lorasmith.fusion.refit_files import RefitReport

MAX_ROWS = 20
"""Layers in the table of errors; of more layers, those with the largest errors are printed."""


def refit_command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A file with layer-wise tokens: NAME.exact.safetensors, or a .pth of Mix-of-Show."
        ),
    ],
    base: Annotated[str, typer.Option("--base", help="The base model that it was trained on.")],
    output: NewFile = None,
    rank: Annotated[
        int | None,
        typer.Option("--rank", help="Rank of keys and values in the new LoRA. Default: 16 more than in the old one."),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name", help="The concept's name in prompts; repeatable. Default: the file's trigger, or its tokens."
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", help="A prompt to fit, besides the built-in ones; {} stands for the name; repeatable."
        ),
    ] = None,
    preserve: Annotated[
        list[str] | None,
        typer.Option("--preserve", help="A prompt that should stay unchanged, besides the built-in ones; repeatable."),
    ] = None,
    ridge: Annotated[
        float,
        typer.Option("--ridge", min=0, help="Regularisation: larger values change other prompts less, and fit worse."),
    ] = 3e-2,
    clip_skip: Annotated[int | None, typer.Option("--clip-skip", help="Default: that of the file's training.")] = None,
    device: Device = "auto",
    dtype: Dtype = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write an ordinary LoRA and ordinary embeddings for a LoRA with layer-wise tokens.

    A1111, Forge, ComfyUI and diffusers have one vector for each token. Each layer-wise token is replaced by its mean
    over the layers, and the keys and values of the LoRA's cross-attention are changed to correct the difference as far
    as possible. The command prints the remaining error on prompts that were not used for the fit: of the mean alone
    (collapse), and of the new LoRA (refit).
    """
    from lorasmith import api

    report = api.refit(
        file,
        base,
        rank=rank,
        names=name,
        prompts=prompt,
        preserve=preserve,
        ridge=ridge,
        clip_skip=clip_skip,
        device=device,
        output=output,
        dtype=dtype,
        overwrite=overwrite,
        progress=console.make_progress(),
    )
    print_report(report)
    if json:
        console.print_json(report.plain())


def print_report(report: RefitReport) -> None:
    """Print the new files and the remaining errors, on stderr."""
    ranks = sorted(report.ranks)
    embeddings = ", ".join(str(path) for path in report.embeddings)
    lines = [
        f"written: {report.file} ({report.layers} layers, ranks {ranks[0]} to {ranks[-1]})",
        f"new tokens: {embeddings}; LoRA and tokens in one file: {report.exact}",
    ]
    for token, cosines in report.result.cosines.items():
        mean = sum(cosines) / len(cosines)
        span = f"{min(cosines):.2f} to {max(cosines):.2f}, on average {mean:.2f}"
        lines.append(f"cosine of the layers' vectors of {token} with their mean: {span}")
    lines.append("error of keys and values on held-out prompts, from the name on (0: none, 1: as large as they are):")
    lines += error_table(report.result.errors)
    lines.append(
        "error of the UNet's prediction on noise, relative to the effect of the prompt (last: prompts without tokens):"
    )
    for t, moved in report.result.moved.items():
        errors = [f"{method} {by_t[t]:.3f}" for method, by_t in report.result.prediction.items()]
        lines.append(f"  t {t}: {', '.join(errors)}; without the tokens {moved:.3f}")
    lines += [f"note:    {note}" for note in report.notes]
    console.say("\n".join(lines))


def error_table(errors: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A row for each cross-attention layer in the order of the network, and one for the mean of all layers.

    `errors`: of `collapse` and `refit`, by layer name (`unet.....attn2.to_k`).
    """
    collapse, refit = errors["collapse"], errors["refit"]
    attentions = list(dict.fromkeys(name.rpartition(".")[0] for name in collapse))
    # A large model has too many layers to print; the worst ones tell where the refit falls short.
    listed = attentions
    if len(attentions) > MAX_ROWS:
        worst = sorted(attentions, key=lambda a: max(refit[f"{a}.to_k"], refit[f"{a}.to_v"]), reverse=True)
        listed = [attention for attention in attentions if attention in worst[:MAX_ROWS]]

    table = []
    for attention in listed:
        label = attention.removeprefix("unet.").removesuffix(".attn2").replace(".transformer_blocks", "")
        key, value = f"{attention}.to_k", f"{attention}.to_v"
        table.append((label, [collapse[key], refit[key], collapse[value], refit[value]]))
    means = []
    for layer in ("to_k", "to_v"):
        means += [_mean_of_layer(collapse, layer), _mean_of_layer(refit, layer)]
    table.append((f"mean of all {len(attentions)}", means))

    width = max(len(label) for label, _ in table)
    lines = [f"  {'':{width}}  keys: collapse  refit  values: collapse  refit"]
    for label, cells in table:
        lines.append(f"  {label:{width}}  {cells[0]:>14.3f}  {cells[1]:>5.3f}  {cells[2]:>16.3f}  {cells[3]:>5.3f}")
    return lines


def _mean_of_layer(errors: Mapping[str, float], layer: str) -> float:
    values = [error for name, error in errors.items() if name.endswith(layer)]
    return sum(values) / len(values)
