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


def test_work_between_units_counts_for_the_remaining_time_and_not_for_the_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    out = io.StringIO()
    with console.LineProgress(out, every=0.0).track_timed("training", 4) as advance:
        advance(0, 0.0, "")
        for _ in range(2):
            # a step of two seconds, and a preview of eight
            now += 10
            advance(1, 2.0, "loss 0.1")
    assert "training 2/4, 2.0 s each, loss 0.1, 0:20, 0:20 left" in out.getvalue()


def test_bars_take_the_seconds_of_units_too() -> None:
    out = Terminal()
    with console.make_progress(out).track_timed("training", 2) as advance:
        advance(0, 0.0, "")
        advance(2, 5.0, "loss 0.1")
    assert "2.5 s each, loss 0.1" in out.getvalue()


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


EVIL = "a\x1b]0;title\x07\x1b[31m\x9b2J\u202e\r"
SHOWN = r"a\x1b]0;title\x07\x1b[31m\x9b2J\u202e\r"


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences in metadata of a file, in captions and names are shown, not obeyed."""
    console.say(EVIL)
    console.show(EVIL)
    console.print_error(LorasmithError(EVIL), as_json=False)
    out, err = capsys.readouterr()
    assert out == SHOWN + "\n"
    assert err == f"{SHOWN}\nerror: {SHOWN}\n"


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_neither_do_those_in_tables_and_progress(stream: io.StringIO) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("name")
    table.add_row(Text(EVIL, style="bold"))
    console.rich_console(stream).print(table)
    progress = console.make_progress(stream)
    with progress.track("training", 1) as advance:
        advance(1, EVIL)
        progress.say(EVIL)
    text = stream.getvalue()
    # rich's own sequences on a terminal are colours and moves of the cursor
    assert "\x1b[31m" not in text
    assert not set(text) & set("\x07\x9b\u202e")
    assert text.count(r"\x1b]0;title") >= 2


def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"a": EVIL + "\x7f\u00e9"})
    out = capsys.readouterr().out
    assert not set(out) & set("\x1b\x07\x7f\x9b\u202e")
    assert json.loads(out) == {"a": EVIL + "\x7f\u00e9"}


def test_json_is_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """prodigyopt and dadaptation print."""
    with console.json_alone():
        print("Using decoupled weight decay")
        console.print_json({"a": 1})
    print("after")
    out, err = capsys.readouterr()
    assert out == '{\n "a": 1\n}\nafter\n'
    assert err == "Using decoupled weight decay\n"
