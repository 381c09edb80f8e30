"""`lorasmith refit`: layer-wise words for programs that know one vector a word."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorasmith.cli import console
from lorasmith.cli.convert import Dtype, Overwrite
from lorasmith.cli.train import Json

if TYPE_CHECKING:
    from lorasmith.fusion.refit_files import RefitReport

MOST = 20
"""Layers of which the table tells each one."""


def refit_command(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="With layer-wise words: NAME.exact.safetensors, or Mix-of-Show's .pth."),
    ],
    base: Annotated[str, typer.Option("--base", help="The base model that it was trained on.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The new LoRA. Default: beside the old one, with an ending.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", help="Of keys and values in the new LoRA. Default: 16 more than they had.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="What prompts call it. Default: the file's trigger, or its words."),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="One such as you will write, beside those that are built in; {} is the name."),
    ] = None,
    preserve: Annotated[
        list[str] | None, typer.Option("--preserve", help="A text whose pictures are to stay, beside those built in.")
    ] = None,
    ridge: Annotated[
        float, typer.Option("--ridge", min=0, help="Larger: other texts stay more as they are, the concept less.")
    ] = 3e-2,
    clip_skip: Annotated[int | None, typer.Option("--clip-skip", help="Default: as the file was trained.")] = None,
    device: Annotated[str, typer.Option("--device")] = "auto",
    dtype: Dtype = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Make an ordinary LoRA and ordinary embeddings of words that have a vector for each layer.

    A1111, Forge, ComfyUI and diffusers know one vector a word. Each word becomes its mean over the layers, and the
    LoRA's keys and values of the text take up what that leaves out, layer by layer, as far as they can. The command
    says how much remains, on prompts that it did not use: for the mean alone (collapse), and for the new LoRA (refit).
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
        progress=console.progress_for(),
    )
    tell(report, json)


def tell(report: RefitReport, json: bool) -> None:
    """What was made, and the errors that remain."""
    found, ranks = report.found, sorted(report.ranks)
    lines = [f"written: {report.file} ({report.layers} layers, ranks {ranks[0]} to {ranks[-1]})"]
    lines.append(f"words:   {', '.join(str(path) for path in report.embeddings)}; both in one: {report.exact}")
    for word, values in found.cosines.items():
        said = f"{min(values):.2f} to {max(values):.2f}, on average {sum(values) / len(values):.2f}"
        lines.append(f"cosine of the layers' vectors of {word} with their mean: {said}")
    lines.append("error of keys and values on held-out prompts, from the name on (0 none, 1 as large as they are):")
    lines += table(found.errors)
    lines.append("error of the UNet's prediction on noise, over what the text changes in it; texts without the words:")
    for t, moved in found.moved.items():
        own = ", ".join(f"{method} {errors[t]:.3f}" for method, errors in found.prediction.items())
        lines.append(f"  t {t}: {own}; without the words {moved:.3f}")
    lines += [f"note:    {note}" for note in report.notes]
    console.say("\n".join(lines))
    if json:
        console.answer(report.plain())


def table(errors: dict[str, dict[str, float]]) -> list[str]:
    """A row for each cross-attention layer, in the order in which they run; of many, those with the largest error."""
    before, after = errors["collapse"], errors["refit"]
    places = list(dict.fromkeys(name.rpartition(".")[0] for name in before))
    shown = places
    if len(places) > MOST:
        worst = sorted(places, key=lambda p: -max(after[f"{p}.to_k"], after[f"{p}.to_v"]))[:MOST]
        shown = [p for p in places if p in worst]
    short = [p.removeprefix("unet.").removesuffix(".attn2").replace(".transformer_blocks", "") for p in shown]
    width = max(len(name) for name in (*short, f"mean of all {len(places)}"))
    rows = [f"  {'':{width}}  keys: collapse  refit  values: collapse  refit"]
    for name, place in (*zip(short, shown, strict=True), (f"mean of all {len(places)}", "")):
        cells = []
        for leaf in ("to_k", "to_v"):
            for values in (before, after):
                own = [v for n, v in values.items() if n.endswith(leaf) and (not place or n == f"{place}.{leaf}")]
                cells.append(sum(own) / len(own))
        rows.append(f"  {name:{width}}  {cells[0]:>14.3f}  {cells[1]:>5.3f}  {cells[2]:>16.3f}  {cells[3]:>5.3f}")
    return rows
