"""What commands print: safe in any encoding, plain where there is no terminal."""

from __future__ import annotations

import io
import json
import sys

import pytest

from lorasmith.cli import console
from lorasmith.core.errors import ConfigError, LorasmithError, Problem


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_at_the_end_and_now_and_then() -> None:
    out = io.StringIO()
    progress = console.LineProgress(out, every=0.0)
    with progress.track("training", 3) as advance:
        advance(0, "")
        for i in range(3):
            advance(1, f"loss {i}")
    progress.say("done [not markup]")
    lines = out.getvalue().splitlines()
    assert lines[-1] == "done [not markup]"
    assert lines[-2].startswith("training 3/3")
    assert "loss 2" in lines[-2]
    assert "left" not in lines[-2]
    assert "left" in lines[1]


def test_a_quiet_line_progress_still_ends_with_a_line() -> None:
    out = io.StringIO()
    with console.LineProgress(out, every=1e9).track("encoding", 2) as advance:
        advance(2, "")
    assert out.getvalue().count("\n") == 1


def test_bars_nest_and_show_what_is_said() -> None:
    out = Terminal()
    progress = console.make_progress(out)
    assert isinstance(progress, console.RichProgress)
    with progress.track("training", 2) as advance:
        advance(1, "loss 0.1")
        with progress.track("previews", 1) as inner:
            inner(1, "")
        progress.say("step 1: [bold]loss[/bold]")
        advance(1, "loss 0.2")
    text = out.getvalue()
    assert "training" in text
    assert "2/2" in text
    assert "[bold]loss[/bold]" in text


def test_pipes_get_no_colours() -> None:
    out = io.StringIO()
    console.rich_console(out).print("error", style="bold red")
    assert out.getvalue() == "error\n"


def test_a_failure_tells_its_problems_to_people_and_machines(capsys: pytest.CaptureFixture[str]) -> None:
    error = ConfigError([Problem("adapter.ranc", "unknown key", "rank", 'did you mean "rank"?')])
    console.print_error(error, as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out)["problems"] == [vars(error.problems[0])]
    assert err.startswith("error: 1 problem")
    console.print_error(LorasmithError("[red]brackets[/red]"), as_json=False)
    assert capsys.readouterr() == ("", "error: [red]brackets[/red]\n")


def test_any_character_can_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii"))
    console.make_streams_safe()
    console.say("Müllers Kätzchen 猫")
    assert b"M\\xfcllers" in raw.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(7, "0:07"), (750, "12:30"), (3723, "1:02:03"), (59.6, "1:00")])
def test_clock(seconds: float, text: str) -> None:
    assert console.format_duration(seconds) == text
