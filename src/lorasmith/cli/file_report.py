"""What commands that write LoRA files print about the new file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorasmith.cli import console

if TYPE_CHECKING:
    from lorasmith.files.lora import FileReport


def print_report(report: FileReport, json: bool) -> None:
    """Print path, size, ranks and error of the new file on stderr, and with `json` the report on stdout too."""
    values = report.plain()
    lines = [f"written: {report.file} ({values['bytes'] / 1e6:.2f} MB, {report.layers} layers)"]
    # `ranks` counts layers by rank; a LoRA of one rank needs no range
    ranks = sorted(report.ranks)
    if len(ranks) == 1:
        lines.append(f"rank:    {ranks[0]}")
    elif ranks:
        lines.append(f"ranks:   {ranks[0]} to {ranks[-1]}")
    if report.error is not None:
        line = f"error:   {report.error:.3g} of the change"
        if report.worst and report.error:
            layer, error = report.worst
            line += f"; largest error of a layer: {layer}, {error:.3g}"
        lines.append(line)
    lines += [f"note:    {note}" for note in report.notes]
    console.say("\n".join(lines))
    if json:
        console.print_json(values)
