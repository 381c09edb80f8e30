"""The report's command for drawing with the LoRA of a run."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import pytest

from lorasmith.sampling.request import Request
from lorasmith.sampling.settings import command_options
from lorasmith.training.output.report.record import Record
from lorasmith.training.output.report.use import use_section


def section(folder: Path, *previews: list[str] | None) -> str:
    """The section of a finished run whose previews were drawn with these options."""
    (folder / "lora.safetensors").touch()
    events: list[dict[str, Any]] = [{"event": "preview", "step": 1, "options": options} for options in previews]
    end = {"event": "end", "step": 2, "file": "lora.safetensors"}
    return use_section(Record(folder, [*events, end], {"trigger": ["garp"], "base": {"source": "tiny-sd"}}))


@pytest.mark.parametrize(
    ("request_", "options"),
    [
        (Request("garp"), "--cfg 7"),
        (Request("garp", cfg=3.5), "--cfg 3.5"),
        (Request("garp", like="a1111", negative="a <b>"), "--cfg 7 --negative 'a <b>' --set like=a1111"),
        (
            Request("garp", steps=30, sampler="euler_a", clip_skip=2),
            "--cfg 7 --steps 30 --sampler euler_a --set clip_skip=2",
        ),
    ],
)
def test_the_command_draws_at_the_settings_of_the_last_previews(
    tmp_path: Path, request_: Request, options: str
) -> None:
    text = section(tmp_path, ["--cfg", "1"], command_options(request_))
    assert escape(f"--prompt 'a photo of garp' {options} --output pictures") in text


@pytest.mark.parametrize("previews", [[], [None], [[]]])
def test_without_settings_of_previews_the_command_has_none(tmp_path: Path, previews: list[list[str] | None]) -> None:
    """Runs without previews, and runs of older versions."""
    assert "&#x27;a photo of garp&#x27; --output pictures</pre>" in section(tmp_path, *previews)
